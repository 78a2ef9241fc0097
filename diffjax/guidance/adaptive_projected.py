import jax.numpy as jnp

from diffjax import struct
from diffjax.batching import expand, shortening, squared_norm
from diffjax.guidance.stacking import like, stacked
from diffjax.typing import Array, Cond, Denoiser, PyTree


@struct.dataclass
class AdaptiveProjected:
  """Adaptive projected guidance (Sadat et al. 2024): classifier-free guidance that does not oversaturate.

  The difference of the two predictions is shortened to a norm of at most `radius`, then its part along the conditional
  x0, which raises saturation, is multiplied by eta. Norms are per sample. One network call on the doubled batch. The
  paper's third part, a momentum over steps, is `samplers.Momentum` around the sampler: a denoiser remembers nothing.

  Attributes:
    denoiser: the conditional denoiser.
    null_cond: what stands for "no condition", with or without the leading [B].
    scale: as in `ClassifierFree`; [] or [B].
    radius: longest norm of the difference, over all of a sample; it depends on the size of the data.
    eta: weight of the parallel part; 0 drops it, and 1 with an infinite radius is classifier-free guidance.
  """

  denoiser: Denoiser
  null_cond: PyTree
  scale: float = 1.0
  radius: float = float("inf")
  eta: float = 0.0

  def __call__(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Array:
    """x0 [B, ...] at x [B, ...], sigma [] or [B]; raises ValueError if cond and null_cond differ in structure."""
    return self.x0_and_difference(x, sigma, cond, key=key)[0]

  def x0_and_difference(
    self, x: Array, sigma: Array, cond: Cond = None, past: Array | float = 0.0, *, key: Array | None = None
  ) -> tuple[Array, Array]:
    """The guided x0 with `past` [B, ...] added to the difference of the predictions, and that sum."""
    conditional, null = stacked(self.denoiser, x, sigma, [cond, like(self.null_cond, cond)], key)
    total = conditional - null + past
    difference = total * shortening(jnp.sqrt(_square(total)), self.radius)
    parallel = (difference * conditional).sum(_axes(x), keepdims=True) / _square(conditional) * conditional
    return conditional + expand(self.scale - 1, x) * (difference + (self.eta - 1) * parallel), total


def _axes(x):
  return tuple(range(1, x.ndim))


def _square(x):
  # neither the root of zero nor its inverse has a gradient
  return jnp.maximum(squared_norm(x), 1e-12)
