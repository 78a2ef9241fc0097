import jax
import jax.numpy as jnp
from flax import struct

from diffjax.batching import expand
from diffjax.typing import Array, Cond, Denoiser, PyTree


@struct.dataclass
class ClassifierFree:
  """Classifier-free guidance (Ho & Salimans 2022, eq. 6): x0 = null + scale * (conditional - null).

  Scale 1 is the conditional model, 0 the unconditional one. Both come from one network call on the doubled batch. A
  learned variance, where the denoiser has one, is the conditional model's.

  Attributes:
    denoiser: the conditional denoiser.
    null_cond: what stands for "no condition": the same dict as cond without the leading [B].
    scale: how far to go; [] or [B].
    interval: (lowest, highest) sigma at which guidance acts; outside, scale is 1 (Kynkaanniemi et al. 2024).
    rescale: 0..1, pulls the guided x0 back to the conditional one's standard deviation, per sample (Lin et al. 2023,
      eq. 15-16).
  """

  denoiser: Denoiser
  null_cond: PyTree
  scale: float = 1.0
  interval: tuple[float, float] = (0.0, float("inf"))
  rescale: float = 0.0

  def __call__(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Array:
    """x0 [B, ...] at x [B, ...], sigma [] or [B]; raises ValueError if cond and null_cond differ in structure."""
    conditional, null = jnp.split(self.denoiser(*self._twice(x, sigma, cond), key=_twice(key)), 2)
    return self._guide(conditional, null, sigma)

  @property
  def x0_and_variance(self):
    """As `__call__`, with the variance's place beside x0; only there if the denoiser has it."""
    predict = self.denoiser.x0_and_variance

    def guided(x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None):
      x0, fraction = predict(*self._twice(x, sigma, cond), key=_twice(key))
      conditional, null = jnp.split(x0, 2)
      return self._guide(conditional, null, sigma), None if fraction is None else fraction[: x.shape[0]]

    return guided

  def _twice(self, x, sigma, cond):
    if jax.tree.structure(cond) != jax.tree.structure(self.null_cond):
      raise ValueError(
        f"cond is {_names(cond)}, but null_cond is {_names(self.null_cond)}; give both the same entries."
      )
    null = jax.tree.map(lambda n, c: jnp.broadcast_to(jnp.asarray(n, c.dtype), c.shape), self.null_cond, cond)
    both = jax.tree.map(lambda c, n: jnp.concatenate([c, n]), cond, null)
    return _twice(x), sigma if jnp.ndim(sigma) == 0 else _twice(sigma), both

  def _guide(self, conditional, null, sigma):
    low, high = self.interval
    scale = jnp.where((low <= sigma) & (sigma <= high), self.scale, 1.0).astype(conditional.dtype)
    guided = null + expand(scale, null) * (conditional - null)
    return guided * (1 + self.rescale * (_std(conditional) / _std(guided) - 1))


def _twice(a):
  return None if a is None else jnp.concatenate([a, a])


def _std(x):
  # the root of zero has no gradient: a constant picture must not make one NaN
  return jnp.sqrt(jnp.maximum(x.var(tuple(range(1, x.ndim)), keepdims=True), 1e-12))


def _names(cond):
  return sorted(cond) if isinstance(cond, dict) else cond
