import jax.numpy as jnp

from diffjax import arrays, randomness, struct
from diffjax.checks import check_in, check_integer
from diffjax.samplers.euler import Euler
from diffjax.samplers.step_checks import check_above_zero
from diffjax.typing import NoiseFn, Sampler


@struct.dataclass
class PredictorCorrector:
  """A step of any sampler, then Langevin steps at the new level (Song et al. 2020, algorithms 2 and 4).

  With the score g = -(x - x0) / sigma^2, noise z and r = `snr`, each of `num_corrections` steps is

      epsilon <- 2 (r |z| / |g|)^2,   x <- x + epsilon g + sqrt(2 epsilon) z

  with norms taken per sample. In x = x0 + sigma * noise the variance-preserving corrector, algorithm 5, is the same up
  to a factor 1 - beta. One network call per correction, in addition to the predictor's.

  Both norms are computed as if x had `added_dims` more dimensions, each with the noise's variance. For images these
  hardly matter; in few dimensions the norms of one sample vary so much that the step, and with it the spread of the
  samples, would be far too large. The paper averages over the batch instead, which makes samples depend on each other.
  added_dims = 0 is the paper's rule for a batch of one.
  """

  predictor: Sampler = Euler(1.0)
  snr: float = 0.16
  added_dims: float = struct.field(kw_only=True, default=64.0)
  num_corrections: int = struct.field(pytree_node=False, default=1)
  noise: NoiseFn = struct.field(pytree_node=False, default=randomness.normal)

  def __post_init__(self):
    check_integer(0, num_corrections=self.num_corrections)
    check_in("[0, inf)", snr=self.snr, added_dims=self.added_dims)

  def init(self, x):
    return self.predictor.init(x)

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    if self.num_corrections:
      check_above_zero(self, sigma_next)
    key, *keys_correction = randomness.split(key, 1 + self.num_corrections)
    x, carry = self.predictor.step(denoiser, x, sigma, sigma_next, carry, key)
    for key_correction in keys_correction:
      x = self._correct(denoiser, x, sigma_next, key_correction)
    return x, carry

  def _correct(self, denoiser, x, sigma, key):
    key_model, key_noise = randomness.split(key)
    x0, noise = denoiser(x, sigma, key=key_model), self.noise(key_noise, x.shape)
    # the paper's step size divided by sigma^2; its score is -(x - x0) / sigma^2
    length = arrays.squared_norm((x - x0) / sigma) + self.added_dims
    reach = arrays.squared_norm(noise) + self.added_dims
    step_size = 2 * jnp.square(self.snr) * reach / jnp.maximum(length, 1e-30)
    return x0 + (1 - step_size) * (x - x0) + sigma * jnp.sqrt(2 * step_size) * noise
