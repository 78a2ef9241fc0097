"""Codecs: between pictures as people see them and the x0 that a model is trained on."""

import jax.numpy as jnp

from diffjax.typing import Array


def to_float(images: Array) -> Array:
  """uint8 0..255 -> float32 [-1, 1]."""
  return images.astype(jnp.float32) / 127.5 - 1


def to_uint8(x0: Array) -> Array:
  """float [-1, 1], clipped -> uint8 0..255."""
  return jnp.round(jnp.clip(x0 * 127.5 + 127.5, 0, 255)).astype(jnp.uint8)
