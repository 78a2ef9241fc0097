import jax.numpy as jnp

from diffjax import randomness, struct
from diffjax.samplers import adams


@struct.dataclass
class DPMppS:
  """DPM-Solver++(1S), (2S) and (3S) (Lu et al. 2022, DPM-Solver++, algorithm 1 with r = 1/2). `order` network calls.

  The data prediction is expanded in lambda = log(alpha / sigma), with step h. Order 1 is DDIM; order 2 is

      u = sigma_s / sigma_{t_{i-1}} x - alpha_s (exp(-r h) - 1) x_theta(x, t_{i-1})
      D = (1 - 1 / (2 r)) x_theta(x, t_{i-1}) + 1 / (2 r) x_theta(u, s)
      x_i = sigma_{t_i} / sigma_{t_{i-1}} x - alpha_{t_i} (exp(-h) - 1) D

  Divided by alpha, sigma / alpha is our sigma, exp(-h) = sigma_next / sigma, and the last line is
  ddim(sigma_next) + (1 - exp(-h)) / (2 r) * (x0_s - x0), where ddim(sigma') = x0 + sigma' / sigma * (x - x0). Order 3
  uses two points, at 1/3 and 2/3 of h: the expansion of DPM-Solver-3, for x0 instead of the noise.

  Raises:
    ValueError: if order is not 1, 2 or 3.
  """

  order: int = struct.field(pytree_node=False, default=2)

  def __post_init__(self):
    adams.check_order("DPMppS", self.order, 3)

  def init(self, x):
    return ()

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    keys = randomness.split(key, self.order)
    h = jnp.log(sigma / sigma_next)
    x0 = denoiser(x, sigma, key=keys[0])
    ddim = lambda sigma_to: x0 + sigma_to / sigma * (x - x0)
    phi_2 = lambda h: 1 + jnp.expm1(-h) / h
    if self.order == 1:
      return ddim(sigma_next), carry

    r1 = 1 / self.order
    sigma_1 = sigma * jnp.exp(-r1 * h)
    d1 = denoiser(ddim(sigma_1), sigma_1, key=keys[1]) - x0
    if self.order == 2:
      return ddim(sigma_next) - jnp.expm1(-h) / (2 * r1) * d1, carry

    r2 = 2 / 3
    sigma_2 = sigma * jnp.exp(-r2 * h)
    d2 = denoiser(ddim(sigma_2) + r2 / r1 * phi_2(r2 * h) * d1, sigma_2, key=keys[2]) - x0
    return ddim(sigma_next) + phi_2(h) / r2 * d2, carry
