"""Random views of an image for CLIP: cropped, rotated, grayed and noised, as in guided-diffusion's descendants.

A match of one view may be accidental; a match of many views is in the image. These follow the cutouts of Disco
Diffusion 5, though not in every number: overviews of the whole image, and inner crops of random size.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffjax import struct
from diffjax.randomness import alone
from diffjax.typing import Array

LUMA = (0.2989, 0.587, 0.114)
CHROMA = (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)
"""I and Q of NTSC's colour space YIQ."""
Count = int | Callable[[Array], Array] | tuple[tuple[float, int], ...]
"""A number, a function of sigma, or pairs (lowest sigma, number), highest sigma first."""


@struct.dataclass
class Cutouts:
  """(x0 [B, H, W, C] in -1..1, keys [B], number) -> [B, size, size, C], the view of that number; differentiable.

  Attributes:
    overview: number of views of the whole image, padded to a square with black; a `Count`.
    inner: number of views of a random square crop; a `Count`.
    cut_pow: crops have side low + u^cut_pow * (high - low), with u uniform, high the image's shorter side, and low the
      smaller of `size` and high; above 1, more crops are small.
    gray: fraction of views without colour.
    flip: fraction of views that are mirrored.
    translate: views shift by up to this fraction of their side, along both axes.
    jitter: brightness, contrast and saturation change by factors up to 1 +- jitter.
    hue: hues shift by up to this fraction of the colour circle.
    noise: standard deviation of the added noise.
    size: side of a view in pixels, the image tower's input size.
    degrees: views rotate by up to this angle.

  Raises:
    ValueError: if there is no view at any noise level.
  """

  overview: Count = 12
  inner: Count = 4
  cut_pow: float = 1.0
  gray: float = 0.2
  flip: float = 0.5
  translate: float = 0.05
  jitter: float = 0.1
  hue: float = 0.1
  noise: float = 0.02
  size: int = struct.field(pytree_node=False, default=224)
  degrees: float = struct.field(pytree_node=False, default=10.0)

  def __post_init__(self):
    if isinstance(self.overview, int) and isinstance(self.inner, int) and self.overview + self.inner < 1:
      raise ValueError(
        f"overview is {self.overview} and inner {self.inner}, but CLIP needs at least one view; raise one of the two."
      )

  def at(self, sigma: Array) -> "Cutouts":
    """The views at a noise level, with each `Count` resolved to a number."""
    highest = jnp.max(sigma)  # the number of views is the same for the whole batch
    return dataclasses.replace(self, overview=_number(self.overview, highest), inner=_number(self.inner, highest))

  @property
  def count(self) -> Array:
    """The number of views."""
    # both are numbers after `at`
    return self.overview + self.inner  # pyright: ignore[reportOperatorIssue, reportReturnType]

  def __call__(self, x0: Array, keys: Array, number: Array) -> Array:
    return jax.vmap(self._view, (0, 0, None))(x0, keys, number)

  def _view(self, image, key, number):
    key_cut, key_turn, key_colour, key_noise = _split(key, 4)
    view = self._cut(image, key_cut, number < self.overview)
    if self.degrees:
      angle = jnp.deg2rad(self.degrees) * _uniform(key_turn, minval=-1.0)
      view = rotate(view, angle)
    view = self._colour(view, key_colour)
    return view + self.noise * alone(lambda key: jax.random.normal(key, view.shape))(key_noise)

  def _cut(self, image, key, whole):
    """One square of the image, shifted and maybe mirrored, by a matrix product along each axis."""
    key_side, key_place, key_move, key_flip = _split(key, 4)
    sides = jnp.array(image.shape[:2], jnp.float32)
    low, high = min(*image.shape[:2], self.size), min(image.shape[:2])
    side = low + _uniform(key_side) ** self.cut_pow * (high - low)
    corner = _uniform(key_place, (2,)) * (sides - side)
    side = jnp.where(whole, sides.max(), side)
    corner = jnp.where(whole, (sides - side) / 2, corner)
    corner += self.translate * side * _uniform(key_move, (2,), minval=-1.0)
    rows, columns = (resampling(length, start, side, self.size) for length, start in zip(image.shape[:2], corner))
    columns = jnp.where(_uniform(key_flip) < self.flip, columns[::-1], columns)
    product = lambda *args: jnp.einsum(*args, precision=jax.lax.Precision.HIGHEST)
    return product("hH,HWC,wW->hwC", rows, image + 1, columns) - 1  # what lies outside is black

  def _colour(self, view, key):
    key_gray, key_jitter = _split(key, 2)
    gray = luma(view)
    view = jnp.where(_uniform(key_gray) < self.gray, gray, view)
    *factors, turn = _uniform(key_jitter, (4,), minval=-1.0)
    brightness, contrast, saturation = (1 + self.jitter * factor for factor in factors)
    view = (view + 1) * brightness - 1
    view = (view - luma(view).mean()) * contrast + luma(view).mean()
    view = (view - luma(view)) * saturation + luma(view)
    return turn_hue(view, 2 * jnp.pi * self.hue * turn)


def _split(key, num):
  return alone(lambda key: jax.random.split(key, num))(key)


def _uniform(key, shape=(), minval=0.0):
  return alone(lambda key: jax.random.uniform(key, shape, minval=minval))(key)


def _number(count: Count, sigma):
  if isinstance(count, tuple):
    levels, numbers = zip(*count)
    return jnp.select([sigma >= level for level in levels], [jnp.asarray(number) for number in numbers], 0)
  return jnp.round(count(sigma)).astype(jnp.int32) if callable(count) else count


def small_views(size: int, count: Count = 4, translate: float = 0.1, noise: float = 0.3) -> Cutouts:
  """Views for small images, too small to crop: the whole image, shifted and noised."""
  still = {"gray": 0.0, "flip": 0.0, "jitter": 0.0, "hue": 0.0, "degrees": 0.0}
  return Cutouts(count, 0, translate=translate, noise=noise, size=size, **still)


def luma(image: Array) -> Array:
  """The brightness of [..., C] as equal channels [..., C] (ITU-R BT.601); gray is unchanged."""
  if image.shape[-1] == 1:
    return image
  return jnp.broadcast_to(image @ jnp.array(LUMA)[:, None] / sum(LUMA), image.shape)


def turn_hue(image: Array, angle: Array) -> Array:
  """Rotates the colours of [..., 3] about gray by an angle in radians, red towards green; luma is unchanged.

  Works in YIQ's chroma plane because the hue of HSV has no gradient at gray. A one-channel image is unchanged.
  """
  if image.shape[-1] == 1:
    return image
  to_yiq = jnp.array([[weight / sum(LUMA) for weight in LUMA], *CHROMA])
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  turned = jnp.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]]) @ to_yiq
  return image @ jnp.linalg.solve(to_yiq, turned).T


def resampling(length: int, start: Array, side: Array, size: int) -> Array:
  """Weights [size, length] that resample `side` pixels of a line, from `start` on, to `size`, with a triangle filter.

  Antialiased when shrinking. Only pixels of that part count; those outside the line are 0. All arguments but `length`
  and `size` may be traced.
  """
  scale = side / size
  centre = start + (jnp.arange(size) + 0.5) * scale
  pixels = jnp.arange(-length, 2 * length) + 0.5
  inside = (pixels > start) & (pixels < start + side)
  weights = jnp.maximum(1 - jnp.abs(pixels[None] - centre[:, None]) / jnp.maximum(scale, 1.0), 0) * inside[None]
  total = jnp.maximum(weights.sum(axis=1, keepdims=True), 1e-12)  # far outside, all weights are 0
  return (weights / total)[:, length : 2 * length]


def rotate(image: Array, angle: Array) -> Array:
  """Rotates a square image [S, S, C] about its centre by an angle in radians, bilinearly; corners become black, -1."""
  middle = (image.shape[0] - 1) / 2
  y, x = jnp.meshgrid(*(jnp.arange(n) - middle for n in image.shape[:2]), indexing="ij")
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  places = [cos * y + sin * x + middle, cos * x - sin * y + middle]
  turn = lambda channel: jax.scipy.ndimage.map_coordinates(channel, places, order=1, cval=-1.0)
  return jax.vmap(turn, -1, -1)(image)
