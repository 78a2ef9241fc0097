import dataclasses

import jax.numpy as jnp

from diffjax import struct
from diffjax.checks import check_in
from diffjax.denoised import Denoised, Predictor, predict
from diffjax.typing import Array, Cond, Denoiser


@struct.dataclass
class StaticThreshold(Predictor):
  """Clips x0 to [-bound, bound], the range of the data (Ho et al. 2020's implementation; Saharia et al. 2022, 2.3)."""

  denoiser: Denoiser
  bound: float = 1.0

  def __post_init__(self):
    check_in("(0, inf]", bound=self.bound)

  def predict(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Denoised:
    """The denoiser's own prediction, its x0 clipped."""
    own = predict(self.denoiser, x, sigma, cond, key=key)
    return dataclasses.replace(own, x0=self._threshold(own.x0))

  def _threshold(self, x0):
    return jnp.clip(x0, -self.bound, self.bound)


@struct.dataclass
class DynamicThreshold(Predictor):
  """Clips x0 to a quantile of its absolute values, then scales it into [-bound, bound] (Saharia et al. 2022, 2.3).

  The paper clips x0 to [-s, s], with s that percentile if it is above 1, and divides by s. The quantile is taken per
  sample and limited to [`bound`, `cap`], so images within range are unchanged.
  """

  denoiser: Denoiser
  quantile: float = 0.995
  bound: float = 1.0
  cap: float = float("inf")

  def __post_init__(self):
    check_in("[0, 1]", quantile=self.quantile)
    check_in("(0, inf]", bound=self.bound, cap=self.cap)

  def predict(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Denoised:
    """The denoiser's own prediction, its x0 clipped."""
    own = predict(self.denoiser, x, sigma, cond, key=key)
    return dataclasses.replace(own, x0=self._threshold(own.x0))

  def _threshold(self, x0):
    limit = jnp.quantile(jnp.abs(x0), self.quantile, axis=tuple(range(1, x0.ndim)), keepdims=True)
    limit = jnp.clip(limit, self.bound, self.cap)
    return jnp.clip(x0, -limit, limit) * (self.bound / limit)
