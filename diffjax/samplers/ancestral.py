from diffjax import posterior, randomness, struct
from diffjax.checks import check_in, check_sampler
from diffjax.samplers.step_checks import check_downward, init_one_step
from diffjax.typing import NoiseFn, Sampler


@struct.dataclass
class Ancestral:
  """Steps any one-step sampler to sigma_down < sigma_next, then adds fresh noise. It makes the sampler's network calls.

  Follows Song et al. 2020, Denoising Diffusion Implicit Models, eq. 12 and 16, whose sigma_t is eta times the
  posterior's standard deviation: in their symbols, and divided by sqrt(alpha_{t-1}) so that x = x0 + sigma * noise,

      sigma_t(eta) = eta sqrt((1 - alpha_{t-1}) / (1 - alpha_t)) sqrt(1 - alpha_t / alpha_{t-1})
      sigma_up = eta sigma_next sqrt(1 - sigma_next^2 / sigma^2),   sigma_down^2 = sigma_next^2 - sigma_up^2

  eta is in [0, 1]; 0 is the sampler without noise. Around Euler this is `Euler(eta)`; around `DPMSolver(2)` and
  `DPMppS(2)` it is known as DPM2 a and DPM++ 2S a. DPMSolver(2) is a midpoint rule in sigma and fails on a long step
  from a very large sigma (a flow at t = 1, zero terminal SNR); DPMppS(2) does not.

  Raises:
    ValueError: if eta is out of range; when sampling, if the sampler carries state, or sigma rises and eta > 0.
  """

  sampler: Sampler
  eta: float = 1.0
  noise: NoiseFn = struct.field(pytree_node=False, default=randomness.normal)

  def __post_init__(self):
    check_in("[0, 1]", eta=self.eta)
    check_sampler(self.sampler)

  def init(self, x):
    return init_one_step(self, x)

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    check_downward(self, sigma, sigma_next, self.eta)
    key_model, key_noise = randomness.split(key)
    sigma_down, sigma_up = posterior.ancestral(sigma, sigma_next, self.eta)
    x, carry = self.sampler.step(denoiser, x, sigma, sigma_down, carry, key_model)
    return x + sigma_up * self.noise(key_noise, x.shape), carry
