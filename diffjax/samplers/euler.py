from diffjax import posterior, randomness, struct
from diffjax.checks import check_in
from diffjax.samplers.step_checks import check_downward
from diffjax.typing import NoiseFn


@struct.dataclass
class Euler:
  """First-order step: the probability-flow ODE at eta = 0, the posterior's full noise at eta = 1. One network call.

  DDIM(eta), Song et al. 2020, Denoising Diffusion Implicit Models, eq. 12 and 16, where alpha_t is a squared scale:

      x_{t-1} = sqrt(alpha_{t-1}) x0 + sqrt(1 - alpha_{t-1} - sigma_t^2) eps_theta + sigma_t eps_t
      sigma_t = eta sqrt((1 - alpha_{t-1}) / (1 - alpha_t)) sqrt(1 - alpha_t / alpha_{t-1})

  Divided by sqrt(alpha_{t-1}) this is x0 + sigma_down * (x - x0) / sigma + sigma_up * noise, with sigma_up = eta *
  sigma_next * sqrt(1 - (sigma_next / sigma)^2) and sigma_down^2 = sigma_next^2 - sigma_up^2. eta is in [0, 1]; 1 is
  DDPM with the posterior variance, and k-diffusion's Euler ancestral.
  """

  eta: float = 0.0
  noise: NoiseFn = struct.field(pytree_node=False, default=randomness.normal)

  def __post_init__(self):
    check_in("[0, 1]", eta=self.eta)

  def init(self, x):
    return ()

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    check_downward(self, sigma, sigma_next, self.eta)
    key_model, key_noise = randomness.split(key)
    x0 = denoiser(x, sigma, key=key_model)
    sigma_down, sigma_up = posterior.ancestral(sigma, sigma_next, self.eta)
    x = x0 + sigma_down / sigma * (x - x0)  # x + d * dt would cancel at large sigma
    return x + sigma_up * self.noise(key_noise, x.shape), carry
