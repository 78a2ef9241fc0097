"""CLIP guidance: an energy that is low if CLIP finds that the image matches the text (Crowson 2021).

The text is encoded once. At every step the predicted image, or several views of it, goes through the image tower and
is compared with the text, and `EnergyGuidance` takes the gradient.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import arrays, randomness, struct
from diffjax.guidance.energy import at
from diffjax.typing import Array

DISTANCES = ("spherical", "cosine", "softmax")


@struct.dataclass
class ClipEnergy:
  """(x0 [B, H, W, C] in -1..1, keys [B]) -> [B]; make one with `clip`.

  Its gradient is with respect to x0 only, accumulated view by view, so that memory does not grow with their number.

  Attributes:
    image_features: images in -1..1 -> unit vectors [B, D], such as `networks.ImageFeatures`.
    targets: unit vectors [P, D], of texts or images.
    weights: [P], with absolute sum 1; negative for what the image should not be.
    views: (x0, keys, number) -> the view of that number, of `count` in all; None: the whole image.
    logit_scale: inverse temperature of "softmax".
    distance: one of DISTANCES.
  """

  image_features: Callable[[Array], Array]
  targets: Array
  weights: Array
  views: Any = None
  logit_scale: float = 100.0
  distance: str = struct.field(pytree_node=False, default="spherical")

  def __call__(self, x0: Array, key: Array | None = None) -> Array:
    if self.views is None:
      return self.compare(x0)
    if key is None:
      raise ValueError("views of an image are drawn at random; call the denoiser with one key per sample.")
    return _mean_over_views(self, x0, key)

  def at(self, sigma: Array) -> "ClipEnergy":
    """The energy at a noise level, on which the number of views may depend."""
    return self if self.views is None else dataclasses.replace(self, views=at(self.views, sigma))

  def compare(self, images: Array) -> Array:
    """The weighted distance [B] of images [B, H, W, C] from the targets."""
    cosines = self._cosines(images)
    return (_distances(cosines, self.distance, self.logit_scale) * jnp.asarray(self.weights)[None]).sum(axis=1)

  def similarity(self, images: Array) -> Array:
    """The weighted sum [B] of cosines of images [B, H, W, C] with the targets: highest for CLIP's best match."""
    return (self._cosines(images) * jnp.asarray(self.weights)[None]).sum(axis=1)

  def shares(self, images: Array) -> Array:
    """The softmax probability [B, P] of each target, as in a classifier among the targets."""
    return jax.nn.softmax(self.logit_scale * self._cosines(images), axis=1)

  def _cosines(self, images):
    features, targets = arrays.upcast(self.image_features(images)), arrays.upcast(jnp.asarray(self.targets))
    return jnp.dot(features, targets.T, precision=jax.lax.Precision.HIGHEST)


def clip(
  image_features: Callable[[Array], Array],
  targets: Array | np.ndarray,
  weights: Sequence[float] | np.ndarray | None = None,
  *,
  distance: str = "spherical",
  views: Callable[..., Array] | None = None,
  logit_scale: float = 100.0,
) -> ClipEnergy:
  """The energy of CLIP guidance, for `EnergyGuidance` and everything built on it.

  Args:
    image_features: images in -1..1 -> unit vectors [B, D]; `networks.ImageFeatures` resizes and makes three channels.
    targets: unit vectors [P, D] of what to draw, from texts or images.
    weights: one per target, scaled here to an absolute sum of 1; default: equal. Negative ones guide away.
    distance: "spherical", 2 arcsin(|u - v| / 2)^2; "cosine", 1 - u.v; "softmax", -log of a target's probability among
      all targets, so that a target of weight 0 is an alternative to discriminate from, as in a classifier.
    views: `Cutouts`, or `small_views` for small images.
    logit_scale: inverse temperature of "softmax"; CLIP's own is learned.

  Raises:
    ValueError: if there is no target, not one weight for each, weights are all 0 or not finite, the distance is
      unknown, or "softmax" has only one target, whose probability is always 1.
  """
  targets = jnp.asarray(targets)
  shares = jnp.ones(len(targets)) if weights is None else jnp.asarray(weights, jnp.float32)
  if targets.ndim != 2 or not len(targets) or shares.shape != (len(targets),):
    raise ValueError(f"targets are {targets.shape} and weights {shares.shape}; give [P, D] and one weight for each.")
  total = float(jnp.abs(shares).sum())
  if not 0 < total < float("inf"):
    raise ValueError(f"the weights of the prompts are {shares.tolist()}; give finite ones, not all of them 0.")
  if distance not in DISTANCES:
    raise ValueError(f"there is no distance {distance!r}; choose one of {', '.join(DISTANCES)}.")
  if distance == "softmax" and len(targets) == 1:
    raise ValueError("softmax needs at least two prompts; add an alternative, as in 'a three|a two::0'.")
  return ClipEnergy(image_features, targets, shares / total, views, logit_scale, distance)


def _distances(cosines, distance, logit_scale):
  if distance == "softmax":
    return -jax.nn.log_softmax(logit_scale * cosines, axis=1)
  return 1 - cosines if distance == "cosine" else spherical(cosines)


def spherical(cosines: Array) -> Array:
  """2 arcsin(|u - v| / 2)^2, half the squared angle between unit vectors, from their cosine; smooth at angle 0."""
  squared = jnp.minimum((1 - cosines) / 2, 1 - 1e-6)  # (|u - v| / 2)^2; unbounded gradient for opposite vectors
  small = squared < 1e-4
  angle = jnp.arcsin(jnp.sqrt(jnp.where(small, 0.5, squared)))
  return 2 * jnp.where(small, squared + jnp.square(squared) / 3, jnp.square(angle))


@jax.custom_vjp
def _mean_over_views(energy: ClipEnergy, x0: Array, key: Array) -> Array:
  add = lambda i, total: total + _of_view(energy, x0, key, i)
  return jax.lax.fori_loop(0, energy.views.count, add, jnp.zeros(x0.shape[0])) / _number(energy.views)


def _number(views):
  return jnp.maximum(views.count, 1)  # without views at this noise level there is no guidance, and no 0 / 0


def _of_view(energy, x0, key, number):
  return energy.compare(energy.views(x0, randomness.fold_in(key, number), number))


def _forward(energy, x0, key):
  """The mean and its gradient, accumulated together, so that no view is kept in memory."""

  def add(i, total):
    value, pullback = jax.vjp(lambda x0: _of_view(energy, x0, key, i), x0)
    (gradient,) = pullback(jnp.ones_like(value))
    return total[0] + value, total[1] + gradient

  total = jax.lax.fori_loop(0, energy.views.count, add, (jnp.zeros(x0.shape[0]), jnp.zeros_like(arrays.upcast(x0))))
  value, gradient = (a / _number(energy.views) for a in total)
  return value, gradient.astype(x0.dtype)


def _backward(gradient, cotangent):
  return None, gradient * arrays.expand(cotangent, gradient), None


_mean_over_views.defvjp(_forward, _backward)
