import jax.numpy as jnp
from flax import struct

from diffjax import batching
from diffjax.typing import NoiseFn


@struct.dataclass
class Euler:
  """First-order step: the probability-flow ODE at eta = 0, the posterior's full noise at eta = 1.

  This is DDIM(eta) (Song et al. 2020, Denoising Diffusion Implicit Models, eq. 12 and 16), hence DDPM with the
  posterior variance at eta = 1, and Euler-ancestral, which is the same step; eta in [0, 1]. One network call.
  """

  eta: float = 0.0
  noise: NoiseFn = struct.field(pytree_node=False, default=batching.normal)

  def init(self, x):
    return ()

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    key_model, key_noise = batching.split(key)
    x0 = denoiser(x, sigma, key=key_model)
    ratio = sigma_next / sigma
    sigma_up = sigma_next * self.eta * jnp.sqrt(1 - ratio**2)
    # sqrt(sigma_next^2 - sigma_up^2), which cancels as it stands when eta = 1 and the step is long
    sigma_down = sigma_next * jnp.sqrt((1 - self.eta) * (1 + self.eta) + (self.eta * ratio) ** 2)
    x = x0 + sigma_down / sigma * (x - x0)  # x + d * dt would cancel at large sigma
    return x + sigma_up * self.noise(key_noise, x.shape), carry
