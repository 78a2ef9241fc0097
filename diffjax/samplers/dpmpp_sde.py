import jax.numpy as jnp

from diffjax import arrays, randomness, struct
from diffjax.checks import check_in
from diffjax.samplers.step_checks import check_above_zero, check_downward
from diffjax.typing import NoiseFn


@struct.dataclass
class DPMppSDE:
  """DPM-Solver++(2S) with r = 1/2 for the diffusion SDE, k-diffusion's DPM++ SDE. Two network calls.

  A step of SDE-DPM-Solver++1 (Lu et al. 2022, DPM-Solver++, section 5), in the paper's symbols

      x_t = sigma_t / sigma_s exp(-h) x_s + alpha_t (1 - exp(-2 h)) x_theta(x_s, s) + sigma_t sqrt(1 - exp(-2 h)) z

  leads to the midpoint in log sigma; x_theta there replaces x_theta(x_s, s) in a step over the whole of h. Divided by
  alpha it is x0 + exp(-(1 + eta) h) * (x - x0) + sigma_t * sqrt(1 - exp(-2 eta h)) * z at eta = 1.

  Both stages of a step share one noise path, that of the SDE: the midpoint's noise decays on the way to sigma_next,
  where fresh noise is added. eta is as in `DPMpp2M`: 1 is the reverse SDE, 0 DPM-Solver++(2S).
  """

  eta: float = 1.0
  noise: NoiseFn = struct.field(pytree_node=False, default=randomness.normal)

  def __post_init__(self):
    check_in("[0, 1]", eta=self.eta)

  def init(self, x):
    return ()

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    check_above_zero(self, sigma_next)
    check_downward(self, sigma, sigma_next, self.eta)
    key_first, key_middle, key_noise, key_noise_next = randomness.split(key, 4)
    sigma_middle = jnp.sqrt(sigma * sigma_next)
    h = jnp.log(sigma / sigma_next) / 2
    decay, fresh = jnp.exp(-(1 + self.eta) * h), arrays.safe_sqrt(-jnp.expm1(-2 * self.eta * h))
    noise = sigma_middle * fresh * self.noise(key_noise, x.shape)
    x0 = denoiser(x, sigma, key=key_first)
    x0_middle = denoiser(x0 + decay * (x - x0) + noise, sigma_middle, key=key_middle)
    noise = decay * noise + sigma_next * fresh * self.noise(key_noise_next, x.shape)
    return x0_middle + decay**2 * (x - x0_middle) + noise, carry
