from collections.abc import Callable

import jax.numpy as jnp

from diffjax import arrays, randomness, struct
from diffjax.samplers import adams
from diffjax.samplers.step_checks import check_above_zero, check_downward
from diffjax.typing import Array, NoiseFn


def er_sde_5(sigma: Array) -> Array:
  """phi(sigma) / sigma = exp(sigma^0.3) + 10, the paper's SDE 5: noise between the ODE's and the reverse SDE's."""
  return jnp.exp(sigma**0.3) + 10


@struct.dataclass
class ERSDE:
  """Extended reverse-time SDE solver of order 1, 2 or 3 (Cui et al. 2023, ER-SDE-Solvers). One network call.

  With the paper's phi, r = phi(sigma_next) / phi(sigma) and derivatives of x_theta with respect to sigma, its solver
  for x = x0 + sigma * noise (the variance-exploding one; the others are the same after division by alpha) is

      x_next = r x + (1 - r) x_theta + sum_k w_k x_theta^(k) + sqrt(sigma_next^2 - r^2 sigma^2) z
      w_k = -integral from sigma_next to sigma of (1 - phi(sigma_next) / phi(s)) (s - sigma)^(k - 1) / (k - 1)! ds

  `scale(sigma)` is phi(sigma) / sigma: it must not decrease with sigma, and the faster it grows, the more noise is
  added. A constant gives the ODE, sigma itself the reverse SDE, and `er_sde_5` something in between.

  The paper's algorithm uses a backward difference for the slope of x0 next to its third-order term, which makes the
  method second-order; here the slope is the parabola's. `shipped=True` selects the paper's.
  """

  order: int = struct.field(pytree_node=False, default=3)
  scale: Callable = struct.field(pytree_node=False, default=er_sde_5)
  shipped: bool = struct.field(pytree_node=False, default=False)
  noise: NoiseFn = struct.field(pytree_node=False, default=randomness.normal)

  def __post_init__(self):
    adams.check_order("ERSDE", self.order, 3)
    if not callable(self.scale):
      raise ValueError(f"scale is {self.scale!r}, but must be a function of sigma; use samplers.er_sde.er_sde_5.")

  def init(self, x):
    # the level before the first is infinite, 1 / step = 0, so all differences to it vanish without a branch
    return (jnp.zeros_like(x), jnp.zeros_like(x)), (jnp.full((), jnp.inf, x.dtype), -jnp.ones((), x.dtype))

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    check_above_zero(self, sigma_next)
    key_model, key_noise = randomness.split(key)
    (x0_last, slope_last), (sigma_last, per_step_last) = carry
    x0 = denoiser(x, sigma, key=key_model)
    per_step = (1 / (sigma - sigma_last)).astype(x.dtype)
    slope = (x0 - x0_last) * per_step
    share = per_step_last / (per_step + per_step_last)  # step / (step + step_last)
    curvature = 2 * share * per_step * (slope - slope_last)
    slope_here = slope if self.order < 3 or self.shipped else slope + share * (slope - slope_last)
    growth = self.scale(sigma_next) / self.scale(sigma)
    check_downward(self, sigma, sigma_next, growth != 1)
    weight_1, weight_2 = self._weights(sigma, sigma_next)
    x = x0 + sigma_next / sigma * growth * (x - x0)
    x = x + (weight_1 * slope_here if self.order > 1 else 0) + (weight_2 * curvature if self.order > 2 else 0)
    sigma_up = sigma_next * arrays.safe_sqrt(jnp.maximum((1 - growth) * (1 + growth), 0))
    return x + sigma_up * self.noise(key_noise, x.shape), ((x0, slope), (jnp.asarray(sigma, x.dtype), per_step))

  def _weights(self, sigma, sigma_next):
    """Weights of x0's slope and curvature at sigma: integrals over [sigma_next, sigma], by Gauss in log sigma."""
    points, weights = adams.quadrature(jnp.log(sigma_next), jnp.log(sigma))
    levels = jnp.exp(points)
    areas = weights * levels * (1 - sigma_next * self.scale(sigma_next) / (levels * self.scale(levels)))
    return -areas.sum(), (areas * (sigma - levels)).sum()
