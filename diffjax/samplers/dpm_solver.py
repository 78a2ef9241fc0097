import jax.numpy as jnp

from diffjax import randomness, struct
from diffjax.samplers import adams
from diffjax.samplers.step_checks import check_above_zero


@struct.dataclass
class DPMSolver:
  """DPM-Solver-1, -2 and -3 (Lu et al. 2022, DPM-Solver, section 3 and algorithms 1 and 2). `order` network calls.

  The noise prediction is expanded in lambda = log(alpha / sigma), with step h. Order 1 is DDIM; order 2 is

      u = alpha_s / alpha_{t_{i-1}} x - sigma_s (exp(h / 2) - 1) eps_theta(x, t_{i-1}),   lambda_s in the middle
      x_i = alpha_{t_i} / alpha_{t_{i-1}} x - sigma_{t_i} (exp(h) - 1) eps_theta(u, s)

  and order 3 uses two points, at r1 = 1/3 and r2 = 2/3 of h, with D = eps_theta(u, s) - eps_theta(x, t_{i-1}):

      u_2 = alpha_{s_2} / alpha_{t_{i-1}} x - sigma_{s_2} (exp(r2 h) - 1) eps_theta(x, t_{i-1})
            - sigma_{s_2} r2 / r1 ((exp(r2 h) - 1) / (r2 h) - 1) D_1
      x_i = alpha_{t_i} / alpha_{t_{i-1}} x - sigma_{t_i} (exp(h) - 1) eps_theta(x, t_{i-1})
            - sigma_{t_i} / r2 ((exp(h) - 1) / h - 1) D_2

  Divided by alpha, sigma / alpha is our sigma, h = log(sigma / sigma_next), and the first two terms of each line are
  ddim(sigma') = x0 + sigma' / sigma * (x - x0).

  Raises:
    ValueError: if order is not 1, 2 or 3.
  """

  order: int = struct.field(pytree_node=False, default=2)

  def __post_init__(self):
    adams.check_order("DPMSolver", self.order, 3)

  def init(self, x):
    return ()

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    if self.order > 1:
      check_above_zero(self, sigma_next)
    keys = randomness.split(key, self.order)
    h = jnp.log(sigma / sigma_next)
    x0 = denoiser(x, sigma, key=keys[0])
    ddim = lambda sigma_to: x0 + sigma_to / sigma * (x - x0)
    phi_2 = lambda h: jnp.expm1(h) / h - 1
    if self.order == 1:
      return ddim(sigma_next), carry

    r1 = 1 / self.order
    sigma_1 = sigma * jnp.exp(-r1 * h)
    # eps_1 - eps, with the noise common to both cancelled
    d1 = (x0 - denoiser(ddim(sigma_1), sigma_1, key=keys[1])) / sigma_1
    if self.order == 2:
      return ddim(sigma_next) - sigma_next / (2 * r1) * jnp.expm1(h) * d1, carry

    r2 = 2 / 3
    sigma_2 = sigma * jnp.exp(-r2 * h)
    correction = -sigma_2 * r2 / r1 * phi_2(r2 * h) * d1
    x0_2 = denoiser(ddim(sigma_2) + correction, sigma_2, key=keys[2])
    d2 = (x0 - x0_2 + correction) / sigma_2
    return ddim(sigma_next) - sigma_next / r2 * phi_2(h) * d2, carry
