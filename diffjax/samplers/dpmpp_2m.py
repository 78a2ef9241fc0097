import jax.numpy as jnp

from diffjax import arrays, randomness, struct
from diffjax.checks import check_in
from diffjax.samplers.step_checks import check_above_zero, check_downward
from diffjax.typing import NoiseFn


@struct.dataclass
class DPMpp2M:
  """DPM-Solver++(2M), second-order multistep (Lu et al. 2022, DPM-Solver++, algorithm 2). One network call.

  With lambda = log(alpha / sigma), its step h_i and r_i = h_{i-1} / h_i,

      D_i = (1 + 1 / (2 r_i)) x_theta(x_{i-1}, t_{i-1}) - 1 / (2 r_i) x_theta(x_{i-2}, t_{i-2})
      x_i = sigma_{t_i} / sigma_{t_{i-1}} x_{i-1} - alpha_{t_i} (exp(-h_i) - 1) D_i

  Divided by alpha, sigma / alpha is our sigma: x_next = D + exp(-h) * (x - D). eta = 0 is this ODE solver; eta = 1 is
  the same paper's SDE-DPM-Solver++(2M), with exp(-2 h) instead of exp(-h) and noise sigma_t sqrt(1 - exp(-2 h)); in
  between, exp(-(1 + eta) h) and sigma_next * sqrt(1 - exp(-2 eta h)). eta is in [0, 1].
  """

  eta: float = 0.0
  noise: NoiseFn = struct.field(pytree_node=False, default=randomness.normal)

  def __post_init__(self):
    check_in("[0, 1]", eta=self.eta)

  def init(self, x):
    # an infinite previous step makes the first step first-order without a branch
    return jnp.zeros_like(x), jnp.full((), jnp.inf, x.dtype)

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    check_above_zero(self, sigma_next)
    check_downward(self, sigma, sigma_next, self.eta)
    key_model, key_noise = randomness.split(key)
    x0_last, h_last = carry
    x0 = denoiser(x, sigma, key=key_model)
    h = jnp.log(sigma / sigma_next)
    extrapolated = x0 + h / (2 * h_last) * (x0 - x0_last)
    x = extrapolated + jnp.exp(-(1 + self.eta) * h) * (x - extrapolated)
    sigma_up = sigma_next * arrays.safe_sqrt(-jnp.expm1(-2 * self.eta * h))
    return x + sigma_up * self.noise(key_noise, x.shape), (x0, h.astype(x.dtype))
