"""Changes to pictures that leave what they show as it is, each drawn from the picture's own key."""

import jax
import jax.numpy as jnp

from diffjax import batching
from diffjax.typing import Array


def flip(keys: Array, images: Array) -> Array:
  """Mirrors each of images [B, H, W, C] from left to right or not, with equal probability."""
  mirrored = batching.expand(batching.uniform(keys) < 0.5, images)
  return jnp.where(mirrored, images[:, :, ::-1], images)


def shift(keys: Array, images: Array, most: int) -> Array:
  """Moves each of images [B, H, W, C] by a whole number of pixels, at most `most`, along both sides; edges repeat."""
  if not most:
    return images
  padded = jnp.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")

  def cut(key, image):
    y, x = jax.random.randint(key, (2,), 0, 2 * most + 1)
    return jax.lax.dynamic_slice(image, (y, x, 0), images.shape[1:])

  return jax.vmap(cut)(keys, padded)
