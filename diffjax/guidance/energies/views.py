"""Views of a picture for CLIP to judge: cut out, turned, grayed and noised, as guided-diffusion's descendants do it.

What CLIP likes about one view may be an accident of it; what it likes about many is in the picture. These follow
the cutouts of Disco Diffusion 5, though not in every number: overviews of the whole picture, and inner cuts of random
size.
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
"""I and Q of the NTSC's colour space YIQ."""
Count = int | Callable[[Array], Array] | tuple[tuple[float, int], ...]
"""A number, a function of sigma, or pairs (from this sigma on, a number), the highest sigma first."""


@struct.dataclass
class Cutouts:
  """(x0 [B, H, W, C] in -1..1, keys [B], number) -> [B, size, size, C], the view of that number; differentiable.

  Attributes:
    overview: how many views are of the whole picture, made square with black; a `Count`.
    inner: how many are of a square part, at random; a `Count`.
    cut_pow: inner squares have side low + u^cut_pow * (high - low), u uniform, high the picture's shorter side, low
      `size` or that: above 1 more are small.
    gray: the share of views without colour.
    flip: the share of views mirrored.
    translate: views move by up to this share of their side, along both.
    jitter: brightness, contrast and saturation change by factors up to 1 +- jitter.
    hue: colours turn by up to this part of the colour circle, of which 1 is all.
    noise: standard deviation of the noise that is added.
    size: side of a view in pixels, the picture tower's own.
    degrees: views turn by up to this angle.

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
      raise ValueError(f"overview is {self.overview} and inner {self.inner}; CLIP must see one view at least.")

  def at(self, sigma: Array) -> "Cutouts":
    """The views at a noise level: their numbers as numbers."""
    highest = jnp.max(sigma)  # a batch has one number of views
    return dataclasses.replace(self, overview=_number(self.overview, highest), inner=_number(self.inner, highest))

  @property
  def count(self) -> Array:
    """How many views there are."""
    # numbers, once `at` a level
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
    """One square of the picture, moved and maybe mirrored, as a product with a matrix along each side."""
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
  """Views of small pictures, where a cut would leave nothing: the whole of it, moved and noised."""
  still = {"gray": 0.0, "flip": 0.0, "jitter": 0.0, "hue": 0.0, "degrees": 0.0}
  return Cutouts(count, 0, translate=translate, noise=noise, size=size, **still)


def luma(image: Array) -> Array:
  """The brightness of [..., C] as equal channels [..., C] (ITU-R BT.601); gray stays as it is."""
  if image.shape[-1] == 1:
    return image
  return jnp.broadcast_to(image @ jnp.array(LUMA)[:, None] / sum(LUMA), image.shape)


def turn_hue(image: Array, angle: Array) -> Array:
  """Turns the colours of [..., 3] by an angle in radians about gray, red towards green; their luma stays.

  In the plane of YIQ's chroma, for the hue of HSV has no gradient at gray. A picture of one channel stays as it is.
  """
  if image.shape[-1] == 1:
    return image
  to_yiq = jnp.array([[weight / sum(LUMA) for weight in LUMA], *CHROMA])
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  turned = jnp.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]]) @ to_yiq
  return image @ jnp.linalg.solve(to_yiq, turned).T


def resampling(length: int, start: Array, side: Array, size: int) -> Array:
  """Weights [size, length] that scale `side` pixels of a line, from `start` on, to `size`, by a triangle.

  Antialiased where that shrinks. Only pixels of the part count, of those the ones outside the line as 0. All but the
  two lengths may be traced.
  """
  scale = side / size
  centre = start + (jnp.arange(size) + 0.5) * scale
  pixels = jnp.arange(-length, 2 * length) + 0.5
  inside = (pixels > start) & (pixels < start + side)
  weights = jnp.maximum(1 - jnp.abs(pixels[None] - centre[:, None]) / jnp.maximum(scale, 1.0), 0) * inside[None]
  total = jnp.maximum(weights.sum(axis=1, keepdims=True), 1e-12)  # far outside there is nothing to weigh
  return (weights / total)[:, length : 2 * length]


def rotate(image: Array, angle: Array) -> Array:
  """Turns a square image [S, S, C] about its middle by an angle in radians, bilinearly; corners become black, -1."""
  middle = (image.shape[0] - 1) / 2
  y, x = jnp.meshgrid(*(jnp.arange(n) - middle for n in image.shape[:2]), indexing="ij")
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  places = [cos * y + sin * x + middle, cos * x - sin * y + middle]
  turn = lambda channel: jax.scipy.ndimage.map_coordinates(channel, places, order=1, cval=-1.0)
  return jax.vmap(turn, -1, -1)(image)
