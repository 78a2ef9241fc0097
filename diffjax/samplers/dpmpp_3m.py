import jax.numpy as jnp

from diffjax import arrays, randomness, struct
from diffjax.checks import check_in
from diffjax.samplers.step_checks import check_above_zero, check_downward
from diffjax.typing import NoiseFn


@struct.dataclass
class DPMpp3M:
  """DPM-Solver++(3M), third-order multistep: the parabola through the last three x0 in log sigma. One network call.

  Lu et al. 2022, DPM-Solver++, section 4: with lambda = log(alpha / sigma), x_theta's Taylor polynomial is inserted in

      x_t = sigma_t / sigma_s x_s + sigma_t * integral from lambda_s to lambda_t of exp(lambda) x_theta dlambda

  Divided by alpha, with h = log(sigma / sigma_next) and x0(l) the parabola at a distance l below log sigma,

      x_next = exp(-z) * x + z * integral over s in [0, 1] of exp(-z (1 - s)) x0(s h) ds + noise,   z = (1 + eta) h

  which is integrated exactly. eta is as in `DPMpp2M`: 0 is the ODE, 1 the reverse SDE, where this is SA-Solver's
  three-step predictor (Xue et al. 2023) with tau^2 = eta: third-order in the mean, second-order in the variance.

  The commonly shipped variant gives the parabola's second difference half its weight, which makes the method
  second-order; `shipped=True` selects it.
  """

  eta: float = 0.0
  shipped: bool = struct.field(pytree_node=False, default=False)
  noise: NoiseFn = struct.field(pytree_node=False, default=randomness.normal)

  def __post_init__(self):
    check_in("[0, 1]", eta=self.eta)

  def init(self, x):
    # the step before the first is infinite, 1 / h = 0, so all differences over it vanish without a branch
    return (jnp.zeros_like(x), jnp.zeros_like(x)), (jnp.zeros((), x.dtype), jnp.ones((), x.dtype))

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    check_above_zero(self, sigma_next)
    check_downward(self, sigma, sigma_next, self.eta)
    key_model, key_noise = randomness.split(key)
    (x0_last, slope_last), (per_h_last, per_h_before) = carry
    x0 = denoiser(x, sigma, key=key_model)
    h = jnp.log(sigma / sigma_next)
    # Newton's divided differences, with log sigma measured downward from here; share = h_last / (h_last + h_before)
    slope = (x0 - x0_last) * per_h_last
    share = per_h_before / (per_h_last + per_h_before)
    slope_here = slope + share * (slope - slope_last)
    curvature = share * per_h_last * (slope - slope_last)
    # weight_k = z * integral over s in [0, 1] of exp(-z (1 - s)) s^k
    z = (1 + self.eta) * h
    weight_1 = 1 + jnp.expm1(-z) / z
    weight_2 = 1 - 2 / z * weight_1
    extrapolated = h * weight_1 * slope_here + h**2 * weight_2 * curvature / (1 + self.shipped)
    sigma_up = sigma_next * arrays.safe_sqrt(-jnp.expm1(-2 * self.eta * h))
    x = x0 + jnp.exp(-z) * (x - x0) + extrapolated + sigma_up * self.noise(key_noise, x.shape)
    return x, ((x0, slope), ((1 / h).astype(x.dtype), per_h_last))
