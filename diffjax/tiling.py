"""Decoding large images in overlapping tiles, so that memory does not grow with the image."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffjax import struct
from diffjax.codecs import Latents
from diffjax.typing import Array, Codec

COPIES, SHARE = 3, 0.25
"""How many activations of the decoder's last level, as wide as the one below, are in memory at once, about; and the
share of a device's memory that they may take."""


@struct.dataclass
class Tiled:
  """A codec that decodes x0 in square tiles, one after the other, and blends them linearly where they overlap.

  An image that fits one tile is decoded as a whole. A decoder with normalisation or attention over the whole image sees
  only a tile, which shifts tones slightly from tile to tile.

  Attributes:
    codec: the whole one, which encodes.
    tile: side of a tile in x0.
    overlap: the fraction of a tile that the next one covers too, in (0, 0.5].
  """

  codec: Codec
  tile: int = struct.field(pytree_node=False, default=64)
  overlap: float = struct.field(pytree_node=False, default=0.25)

  @property
  def downscaling(self) -> int:
    return self.codec.downscaling

  def encode(self, images: Array, key: Array | None = None) -> Array:
    return self.codec.encode(images, key)

  def decode(self, x0: Array) -> Array:
    """x0 [B, h, w, c] -> images [B, H, W, C]."""
    B, h, w, _ = x0.shape
    rows, columns = (min(side, self.tile) for side in (h, w))
    if (rows, columns) == (h, w):
      return self.codec.decode(x0)
    corners = jnp.array(list(itertools.product(self._starts(h), self._starts(w))))
    shape = jax.eval_shape(self.codec.decode, jax.ShapeDtypeStruct((B, rows, columns, x0.shape[3]), x0.dtype)).shape
    scale = shape[1] // rows
    weight = jnp.asarray(np.outer(_ramp(shape[1], self.overlap), _ramp(shape[2], self.overlap))[None, :, :, None])

    def add(sums, corner):
      tile = lax.dynamic_slice(x0, (0, *corner, 0), (B, rows, columns, x0.shape[3]))
      weighed = (weight * self.codec.decode(tile), weight)
      place = (0, *(corner * scale), 0)
      return [
        lax.dynamic_update_slice(s, lax.dynamic_slice(s, place, a.shape) + a, place) for s, a in zip(sums, weighed)
      ], None

    whole = (h * scale, w * scale)
    (images, total), _ = lax.scan(add, [jnp.zeros((B, *whole, shape[3])), jnp.zeros((1, *whole, 1))], corners)
    return images / total

  def _starts(self, side: int) -> list[int]:
    """Where tiles begin along a side, the last one ending with it."""
    if side <= self.tile:
      return [0]
    stride = max(int(self.tile * (1 - self.overlap)), 1)
    return [*range(0, side - self.tile, stride), side - self.tile]


def fitting(codec: Codec, shape: tuple[int, ...], available: int | None) -> Codec:
  """The codec itself, or `Tiled`, if decoding one x0 of `shape` [h, w, c] would take more than a quarter of a device.

  Only a single image counts, so that an image does not depend on the batch it is drawn in. None: unknown memory.
  """
  if not isinstance(codec, Latents) or available is None:
    return codec
  widths = getattr(codec.module, "widths", ())
  if len(widths) < 2:
    return codec
  pixels = math.prod(shape[:2]) * codec.downscaling**2
  needed = COPIES * widths[1] * pixels * jnp.dtype(codec.module.dtype).itemsize
  return Tiled(codec) if needed > SHARE * available else codec


def _ramp(side: int, overlap: float) -> np.ndarray:
  """Weights of a tile's pixels along a side: they rise linearly over the overlap, to 1, and fall again."""
  distance = np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5
  return np.minimum(distance / (overlap * side), 1).astype(np.float32)
