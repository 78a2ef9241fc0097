from collections.abc import Callable

from diffjax import randomness, struct
from diffjax.samplers.step_checks import check_above_zero
from diffjax.schedules import variance_exploding


@struct.dataclass
class Heun:
  """Second-order step: an Euler step, then its slope averaged with the slope at its end. Two network calls.

  Karras et al. 2022, algorithm 2, lines 7 to 11, without churn, which `Churn` adds; with t = sigma and the denoiser D,

      d_i = (x_i - D(x_i; t_i)) / t_i,   x_{i+1} = x_i + (t_{i+1} - t_i) d_i
      d'_i = (x_{i+1} - D(x_{i+1}; t_{i+1})) / t_{i+1}
      x_{i+1} = x_i + (t_{i+1} - t_i) (d_i + d'_i) / 2

  With x0 = D(x_i; t_i) and x0_next = D(x_{i+1}; t_{i+1}), the last line is the Euler step's x_{i+1} plus
  (sigma / sigma_next - 1) / 2 * (x0_next - x0).

  `scaling` is the schedule's. EDM averages two slopes in sigma, which fails on a long step from a very large sigma (a
  flow at t = 1, zero terminal SNR); with `schedules.flow` they are averaged in the flow's own time.
  """

  scaling: Callable = struct.field(pytree_node=False, default=variance_exploding)

  def init(self, x):
    return ()

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    check_above_zero(self, sigma_next)
    # the first of three keys belonged to churn, which was part of this class: seeds keep drawing the same images
    _, key_first, key_second = randomness.split(key, 3)
    x0 = denoiser(x, sigma, key=key_first)
    x = x0 + sigma_next / sigma * (x - x0)
    x0_next = denoiser(x, sigma_next, key=key_second)
    # the average of both slopes, written as a correction so that their large parts cancel exactly
    weight = (sigma / sigma_next - 1) / 2 * self.scaling(sigma) / self.scaling(sigma_next)
    return x + weight * (x0_next - x0), carry
