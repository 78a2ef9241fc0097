"""Codecs between images and the x0 that a model is trained on.

A codec's images are float32 [B, H, W, C] in [-1, 1]; displayed and stored images are uint8.
"""

import jax.numpy as jnp

from diffjax import struct
from diffjax.typing import Array


@struct.dataclass
class Pixels:
  """The codec of a pixel-space model: x0 is the image."""

  def encode(self, images: Array, key: Array | None = None) -> Array:
    """Images [B, H, W, C] in [-1, 1] -> x0."""
    return images

  def decode(self, x0: Array) -> Array:
    """x0 -> images [B, H, W, C], in [-1, 1] up to the model's error."""
    return x0


def to_float(images: Array) -> Array:
  """uint8 0..255 -> float32 [-1, 1]."""
  return images.astype(jnp.float32) / 127.5 - 1


def to_uint8(images: Array) -> Array:
  """float [-1, 1], clipped -> uint8 0..255."""
  return jnp.round(jnp.clip(images * 127.5 + 127.5, 0, 255)).astype(jnp.uint8)
