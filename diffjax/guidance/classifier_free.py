import jax
import jax.numpy as jnp
from flax import struct

from diffjax.batching import expand
from diffjax.typing import Array, Cond, Denoiser, PyTree


@struct.dataclass
class ClassifierFree:
  """Classifier-free guidance (Ho & Salimans 2022, eq. 6): x0 = null + scale * (conditional - null).

  Scale 1 is the conditional model, 0 the unconditional one. Both come from one network call on the doubled batch.

  Attributes:
    denoiser: the conditional denoiser.
    null_cond: what stands for "no condition": the same dict as cond without the leading [B].
    scale: how far to go; [] or [B].
    interval: (lowest, highest) sigma at which guidance acts; outside, scale is 1 (Kynkaanniemi et al. 2024).
    rescale: 0..1, pulls the guided x0 back to the conditional one's standard deviation, per sample (Lin et al. 2023, eq.
      15-16).
  """

  denoiser: Denoiser
  null_cond: PyTree
  scale: float = 1.0
  interval: tuple[float, float] = (0.0, float("inf"))
  rescale: float = 0.0

  def __call__(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Array:
    conditional, null = self._both(self.denoiser, x, sigma, cond, key)
    return self._guide(conditional, null, sigma)

  def _both(self, denoiser, x, sigma, cond, key):
    def twice(a):
      return jnp.concatenate([a, a])

    null = jax.tree.map(lambda n, c: jnp.broadcast_to(jnp.asarray(n, c.dtype), c.shape), self.null_cond, cond)
    both = jax.tree.map(lambda c, n: jnp.concatenate([c, n]), cond, null)
    sigma = jnp.asarray(sigma, x.dtype)
    output = denoiser(twice(x), sigma if sigma.ndim == 0 else twice(sigma), both, key=None if key is None else twice(key))
    return jnp.split(output, 2)

  def _guide(self, conditional, null, sigma):
    low, high = self.interval
    scale = jnp.where((low <= sigma) & (sigma <= high), self.scale, 1.0).astype(conditional.dtype)
    guided = null + expand(scale, null) * (conditional - null)
    axes = tuple(range(1, guided.ndim))
    std, std_guided = conditional.std(axes, keepdims=True), guided.std(axes, keepdims=True)
    return guided * (1 + self.rescale * (std / jnp.maximum(std_guided, 1e-12) - 1))
