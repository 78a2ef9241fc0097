import jax.numpy as jnp

from diffjax import struct
from diffjax.checks import check_in
from diffjax.typing import Array, Cond, Denoiser


@struct.dataclass
class StaticThreshold:
  """Clips x0 to [-bound, bound], the range of the data (Ho et al. 2020's implementation; Saharia et al. 2022, 2.3)."""

  denoiser: Denoiser
  bound: float = 1.0

  def __post_init__(self):
    check_in("(0, inf]", bound=self.bound)

  def __call__(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Array:
    return self._threshold(self.denoiser(x, sigma, cond, key=key))

  @property
  def x0_and_variance(self):
    """The denoiser's own, its x0 clipped; only there if the denoiser has it."""
    return _first_through(self._threshold, self.denoiser.x0_and_variance)

  @property
  def x0_and_shift(self):
    """The unguided x0, and what guidance adds to it before their sum is clipped; only there if the denoiser has it."""
    return _sum_through(self._threshold, self.denoiser.x0_and_shift)

  def _threshold(self, x0):
    return jnp.clip(x0, -self.bound, self.bound)


@struct.dataclass
class DynamicThreshold:
  """Clips x0 to a quantile of its own absolute values, then scales it into [-bound, bound] (Saharia et al. 2022, 2.3).

  The quantile is taken per sample and is never below `bound`, so pictures within range stay as they are, nor above
  `cap`.
  """

  denoiser: Denoiser
  quantile: float = 0.995
  bound: float = 1.0
  cap: float = float("inf")

  def __post_init__(self):
    check_in("[0, 1]", quantile=self.quantile)
    check_in("(0, inf]", bound=self.bound, cap=self.cap)

  def __call__(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Array:
    return self._threshold(self.denoiser(x, sigma, cond, key=key))

  @property
  def x0_and_variance(self):
    """The denoiser's own, its x0 scaled; only there if the denoiser has it."""
    return _first_through(self._threshold, self.denoiser.x0_and_variance)

  @property
  def x0_and_shift(self):
    """The unguided x0, and what guidance adds to it before their sum is scaled; only there if the denoiser has it."""
    return _sum_through(self._threshold, self.denoiser.x0_and_shift)

  def _threshold(self, x0):
    limit = jnp.quantile(jnp.abs(x0), self.quantile, axis=tuple(range(1, x0.ndim)), keepdims=True)
    limit = jnp.clip(limit, self.bound, self.cap)
    return jnp.clip(x0, -limit, limit) * (self.bound / limit)


def _first_through(function, predict):
  def predicted(x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None):
    x0, fraction = predict(x, sigma, cond, key=key)
    return function(x0), fraction

  return predicted


def _sum_through(function, predict):
  def predicted(x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None):
    x0, shift = predict(x, sigma, cond, key=key)
    return x0, function(x0 + shift) - x0

  return predicted
