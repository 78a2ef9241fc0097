from collections.abc import Callable

from diffjax import randomness, struct
from diffjax.samplers.churn import check_churn, churn
from diffjax.schedules import variance_exploding
from diffjax.typing import NoiseFn


@struct.dataclass
class Heun:
  """Second-order step with churn (Karras et al. 2022, algorithm 2). Two network calls.

  `s_churn` is the noise added over a whole trajectory of `num_steps` steps (the grid's, required with it), within
  [s_tmin, s_tmax] and multiplied by s_noise; 0 makes the method deterministic. The step to zero adds none.

  `scaling` is the schedule's. EDM averages two slopes in sigma, which fails on a long step from a very large sigma (a
  flow at t = 1, zero terminal SNR); with `schedules.flow` they are averaged in the flow's own time.
  """

  s_churn: float = 0.0
  s_tmin: float = 0.0
  s_tmax: float = float("inf")
  s_noise: float = 1.0
  num_steps: int | None = None
  scaling: Callable = struct.field(pytree_node=False, default=variance_exploding)
  noise: NoiseFn = struct.field(pytree_node=False, default=randomness.normal)

  def __post_init__(self):
    check_churn(self)

  def init(self, x):
    return ()

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    key_churn, key_first, key_second = randomness.split(key, 3)
    x, sigma_hat = churn(self, x, sigma, key_churn)
    x0 = denoiser(x, sigma_hat, key=key_first)
    x = x0 + sigma_next / sigma_hat * (x - x0)
    x0_next = denoiser(x, sigma_next, key=key_second)
    # the average of both slopes, written as a correction: the large parts of the two cancel exactly
    weight = (sigma_hat / sigma_next - 1) / 2 * self.scaling(sigma_hat) / self.scaling(sigma_next)
    return x + weight * (x0_next - x0), carry
