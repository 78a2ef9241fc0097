"""Codecs: between pictures and the x0 that a model is trained on.

Pictures are float32 [B, H, W, C] in [-1, 1] on one side of a codec; what people see and files hold is uint8.
"""

import jax.numpy as jnp

from diffjax import struct
from diffjax.typing import Array


@struct.dataclass
class Pixels:
  """The codec of a model of pixels: x0 is the picture."""

  def encode(self, images: Array, key: Array | None = None) -> Array:
    """Pictures [B, H, W, C] in [-1, 1] -> x0."""
    return images

  def decode(self, x0: Array) -> Array:
    """x0 -> pictures [B, H, W, C], in [-1, 1] where the model is right."""
    return x0


def to_float(images: Array) -> Array:
  """uint8 0..255 -> float32 [-1, 1]."""
  return images.astype(jnp.float32) / 127.5 - 1


def to_uint8(images: Array) -> Array:
  """float [-1, 1], clipped -> uint8 0..255."""
  return jnp.round(jnp.clip(images * 127.5 + 127.5, 0, 255)).astype(jnp.uint8)
