from diffjax import randomness, struct
from diffjax.samplers.runge_kutta import slope, slopes
from diffjax.samplers.step_checks import check_above_zero

TABLEAU = ((1 / 2,), (0, 1 / 2), (0, 0, 1), (1 / 6, 1 / 3, 1 / 3, 1 / 6))


@struct.dataclass
class RK4:
  """The classical fourth-order Runge-Kutta method (Kutta 1901) on the probability-flow ODE. Four network calls.

      k_1 = f(t, y),  k_2 = f(t + h/2, y + h k_1 / 2),  k_3 = f(t + h/2, y + h k_2 / 2),  k_4 = f(t + h, y + h k_3)
      y_next = y + h (k_1 + 2 k_2 + 2 k_3 + k_4) / 6

  Steps in t = sigma / (1 + sigma), a straight flow's time; `samplers.runge_kutta` says why.
  """

  def init(self, x):
    return ()

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    check_above_zero(self, sigma_next)
    key_first, *keys = randomness.split(key, 4)
    first = slope(denoiser, x, sigma, key_first)
    return slopes(denoiser, x, sigma, sigma_next, TABLEAU, keys, first)[0], carry
