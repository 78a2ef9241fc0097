import jax.numpy as jnp

from diffjax import struct
from diffjax.arrays import expand, within
from diffjax.checks import check_in
from diffjax.denoised import Denoised, Predictor, predict
from diffjax.guidance.scales import Scale, at_level
from diffjax.typing import Array, Cond, Denoiser


@struct.dataclass
class AutoGuidance(Predictor):
  """Guidance by a weaker version of the model (Karras et al. 2024, autoguidance): x0 = weak + scale * (x0 - weak).

      D_w(x; sigma, c) = w D_1(x; sigma, c) + (1 - w) D_0(x; sigma, c)

  The weak model, D_0, is smaller or trained less, on the same data and conditions: guidance moves away from its larger
  errors. Scale 1 is the denoiser alone. One call of each of the two networks.

  Attributes:
    denoiser, weak: the two denoisers.
    scale: [] or [B], or a function of sigma.
    interval: (lowest, highest) sigma at which guidance acts.
  """

  denoiser: Denoiser
  weak: Denoiser
  scale: Scale = 1.0
  interval: tuple[float, float] = (0.0, float("inf"))

  def __post_init__(self):
    check_in("(-inf, inf)", scale=self.scale)

  def predict(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Denoised:
    """The guided x0; the unguided x0 and the variance are the denoiser's."""
    own, weak = predict(self.denoiser, x, sigma, cond, key=key), self.weak(x, sigma, cond, key=key)
    scale = jnp.where(within(sigma, self.interval), at_level(self.scale, sigma), 1.0).astype(own.x0.dtype)
    return Denoised(weak + expand(scale, x) * (own.x0 - weak), own.x0, own.variance)
