import jax.numpy as jnp

from diffjax import struct
from diffjax.arrays import expand, within
from diffjax.checks import check_in
from diffjax.typing import Array, Cond, Denoiser


@struct.dataclass
class AutoGuidance:
  """Guidance by a weaker version of the model (Karras et al. 2024, autoguidance): x0 = weak + scale * (x0 - weak).

  The weak model is smaller or less trained, on the same data and conditions: where it errs more, guidance goes the
  other way. Scale 1 is the denoiser itself. One call of each of the two networks.

  Attributes:
    denoiser, weak: the two denoisers.
    scale: [] or [B].
    interval: (lowest, highest) sigma at which guidance acts.
  """

  denoiser: Denoiser
  weak: Denoiser
  scale: float = 1.0
  interval: tuple[float, float] = (0.0, float("inf"))

  def __post_init__(self):
    check_in("(-inf, inf)", scale=self.scale)

  def __call__(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Array:
    """x0 [B, ...] at x [B, ...], sigma [] or [B]."""
    return self._guide(self.denoiser(x, sigma, cond, key=key), x, sigma, cond, key)

  @property
  def x0_and_variance(self):
    """As `__call__`, with the variance's place beside x0; only there if the denoiser has it."""
    predict = self.denoiser.x0_and_variance

    def guided(x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None):
      x0, fraction = predict(x, sigma, cond, key=key)
      return self._guide(x0, x, sigma, cond, key), fraction

    return guided

  def _guide(self, x0, x, sigma, cond, key):
    weak = self.weak(x, sigma, cond, key=key)
    scale = jnp.where(within(sigma, self.interval), self.scale, 1.0).astype(x0.dtype)
    return weak + expand(scale, x) * (x0 - weak)
