import jax.numpy as jnp

from diffjax import arrays, randomness, struct
from diffjax.arrays import expand
from diffjax.checks import check_in
from diffjax.samplers import adams
from diffjax.samplers.step_checks import check_above_zero, check_downward
from diffjax.typing import NoiseFn


@struct.dataclass
class SASolver:
  """Stochastic Adams predictor and corrector (Xue et al. 2023, SA-Solver, algorithm 1). One network call.

  In the paper's symbols, with lambda = log(alpha / sigma), l_j the Lagrange polynomials of the known levels, and tau
  constant over a step of length h,

      x_{i+1} = sigma_{i+1} / sigma_i exp(-tau^2 h) x_i + sum_j b_j x_theta(x_j, t_j)
                + sigma_{i+1} sqrt(1 - exp(-2 tau^2 h)) xi
      b_j = sigma_{i+1} integral of exp(-tau^2 (lambda_{i+1} - lambda)) (1 + tau^2) exp(lambda) l_j(lambda) dlambda

  Divided by alpha, sigma / alpha is our sigma, and the first factor is exp(-(1 + tau^2) h). The b_j sum to 1 minus that
  factor, so the update is written as x0 and differences from x0.

  The predictor interpolates x0 over the last `predictor_order` levels, the corrector over the new level and the
  `corrector_order - 1` before it; 0 turns the corrector off. `tau` >= 0 is the noise: 0 gives the ODE, 1 the reverse
  SDE; outside `interval` = (lowest, highest) sigma it is 0. The mean has the predictor's order (one more with a
  corrector of one order higher), while noise limits single samples to order 1 and the variance to 2.

  The authors' code replaces one integral by its leading term when two levels are interpolated, which keeps the order
  and is meant for few steps; `shipped=True` does the same.
  """

  predictor_order: int = struct.field(pytree_node=False, default=3)
  corrector_order: int = struct.field(pytree_node=False, default=3)
  tau: float = 1.0
  interval: tuple[float, float] = (0.0, float("inf"))
  shipped: bool = struct.field(pytree_node=False, default=False)
  noise: NoiseFn = struct.field(pytree_node=False, default=randomness.normal)

  def __post_init__(self):
    adams.check_order("SASolver's predictor", self.predictor_order, 4)
    if self.corrector_order != 0:
      adams.check_order("SASolver's corrector", self.corrector_order, 4)
    check_in("[0, inf)", tau=self.tau)

  def init(self, x):
    # x0 at the levels visited; x and the noise before the last prediction
    return adams.empty(x, max(self.predictor_order, self.corrector_order - 1, 1)), (x, jnp.zeros_like(x))

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    check_above_zero(self, sigma_next)
    check_downward(self, sigma, sigma_next, self.tau)
    key_model, key_noise = randomness.split(key)
    past, (x_last, noise_last) = carry
    x0 = denoiser(x, sigma, key=key_model)
    known = adams.History(jnp.concatenate([x0[None], past.values]), jnp.append(sigma, past.places).astype(x.dtype))
    if self.corrector_order:
      started = jnp.isfinite(past.places[0])
      sigma_last = jnp.where(started, past.places[0], 2 * sigma)  # unused at first, but must not be NaN
      corrected = self._move(x_last, known, self.corrector_order, sigma_last, sigma, noise_last)
      x = jnp.where(started, corrected, x)
    noise = self.noise(key_noise, x.shape)
    x_next = self._move(x, known, self.predictor_order, sigma, sigma_next, noise)
    return x_next, (past.push(x0, sigma), (x, noise))

  def _move(self, x, known, order, sigma, sigma_next, noise):
    """x from sigma to sigma_next, with x0 the polynomial through the first `order` known values."""
    tau = jnp.where(arrays.within(sigma, self.interval), self.tau, 0.0).astype(x.dtype)
    start, end, places = -jnp.log(sigma), -jnp.log(sigma_next), -jnp.log(known.places[:order])
    h, rate = end - start, 1 + tau**2
    points, areas = adams.quadrature(start, end)
    kernel = rate * jnp.exp(rate * (points - end)) * areas
    weights = (adams.lagrange(places, points) * kernel[None]).sum(1)[1:]
    if self.shipped and order > 1:
      leading = rate * h**2 / 2 + (start - places[0]) * -jnp.expm1(-rate * h)
      two = jnp.isfinite(places).sum() == 2
      weights = weights.at[0].set(jnp.where(two, leading / jnp.where(two, places[1] - places[0], 1), weights[0]))
    x0, differences = known.values[0], known.values[1:order] - known.values[:1]
    x = x0 + jnp.exp(-rate * h) * (x - x0) + (expand(weights, differences) * differences).sum(0)
    return x + sigma_next * arrays.safe_sqrt(-jnp.expm1(-2 * tau**2 * h)) * noise
