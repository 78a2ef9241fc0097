import jax.numpy as jnp

from diffjax import struct
from diffjax.checks import check_in
from diffjax.denoised import Denoised, Predictor, predict
from diffjax.typing import Array, Cond, Denoiser


@struct.dataclass
class Embedded(Predictor):
  """Guidance that a network was distilled to do itself: it reads the scale as cond["guidance"].

  As in Meng et al. 2023, section 3.1, and latent consistency models (Luo et al. 2023, section 4.2). One network call
  does what `ClassifierFree` needs two for; there is no null cond.

  Attributes:
    denoiser: whose network reads cond["guidance"] [B].
    scale: strength of the guidance, [].
  """

  denoiser: Denoiser
  scale: Array | float = 1.0

  def __post_init__(self):
    check_in("(-inf, inf)", scale=self.scale)

  def predict(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Denoised:
    """The denoiser's prediction at this scale."""
    cond = (cond or {}) | {"guidance": jnp.full(x.shape[:1], self.scale, jnp.float32)}
    return predict(self.denoiser, x, sigma, cond, key=key)
