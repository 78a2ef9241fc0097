import jax.numpy as jnp

from diffjax import arrays, randomness, struct
from diffjax.checks import check_in
from diffjax.typing import NoiseFn


@struct.dataclass
class Consistency:
  """Multistep sampling of a consistency model: jump to the data, then add noise again. One network call.

  Song et al. 2023, algorithm 1, where the model f_theta is our denoiser:

      x <- f_theta(x_tau, tau),   x_tau' <- x + sqrt(tau'^2 - epsilon^2) z

  `sigma_min`, their epsilon, is the noise that the model leaves in its output. With 0 this is the multistep sampling
  of latent consistency models (Luo et al. 2023, algorithm 3).
  """

  sigma_min: float = 0.002
  noise: NoiseFn = struct.field(pytree_node=False, default=randomness.normal)

  def __post_init__(self):
    check_in("[0, inf)", sigma_min=self.sigma_min)

  def init(self, x):
    return ()

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    key_model, key_noise = randomness.split(key)
    x0 = denoiser(x, sigma, key=key_model)
    sigma_up = arrays.safe_sqrt(jnp.maximum(sigma_next**2 - self.sigma_min**2, 0))
    return x0 + sigma_up * self.noise(key_noise, x.shape), carry
