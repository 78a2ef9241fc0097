"""What a denoiser predicts: x0, and optionally more."""

import abc
from collections.abc import Callable

from diffjax import struct
from diffjax.typing import Array, Cond, Denoiser


@struct.dataclass
class Denoised:
  """A prediction.

  Attributes:
    x0: the clean data, [B, ...].
    unguided: x0 [B, ...] before guidance; None without guidance.
    variance: the learned variance as a fraction between the posterior's (0) and the larger one (1), [B, ...]; None if
      it is not learned.
    difference: the direction [B, ...] of guidance that supports momentum.
  """

  x0: Array
  unguided: Array | None = None
  variance: Array | None = None
  difference: Array | None = None


class Predictor(abc.ABC):
  """Abstract: a denoiser that predicts more than x0."""

  @abc.abstractmethod
  def predict(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Denoised:
    """The full prediction at x [B, ...], sigma [] or [B]."""

  def __call__(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Array:
    """x0 [B, ...] at x [B, ...], sigma [] or [B]; raises the errors of `predict`."""
    return self.predict(x, sigma, cond, key=key).x0


class Predicting(Predictor):
  """A function (x, sigma, cond, key, ...) -> Denoised as a denoiser."""

  def __init__(self, function: Callable[..., Denoised]):
    self._function = function

  def predict(self, x, sigma, cond=None, *, key=None, **more):
    return self._function(x, sigma, cond, key, **more)


def predict(
  denoiser: Denoiser, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None, **more: Array
) -> Denoised:
  """The full prediction of any denoiser at x [B, ...], sigma [] or [B]; for a plain function, x0 only.

  `more` is for denoisers that take it, such as the `past` of `guidance.AdaptiveProjected`; others raise TypeError.
  """
  knows_more = getattr(denoiser, "predict", None)
  if knows_more is not None:
    return knows_more(x, sigma, cond, key=key, **more)
  return Denoised(denoiser(x, sigma, cond, key=key, **more))
