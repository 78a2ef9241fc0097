"""Data augmentation that preserves a picture's content, each picture with its own key."""

import jax
import jax.numpy as jnp

from diffjax import arrays, randomness
from diffjax.randomness import alone
from diffjax.typing import Array


def flip(keys: Array, images: Array) -> Array:
  """Mirrors each of images [B, H, W, C] horizontally with probability 1/2."""
  mirrored = arrays.expand(randomness.uniform(keys) < 0.5, images)
  return jnp.where(mirrored, images[:, :, ::-1], images)


AUGMENT_DIM = 9
"""Length of the label that tells a network how a picture was augmented."""


def non_leaking(keys: Array, images: Array, probability: float) -> tuple[Array, Array]:
  """Geometric augmentation of images [B, H, W, C] with labels for the network (Karras et al. 2022, appendix F.2).

  Half of the pictures are mirrored; each of five further transforms is applied with `probability`: vertical flip (half
  of those), scaling, rotation, anisotropic scaling, translation. Pixels are interpolated bilinearly, with reflection at
  the borders.

  Returns:
    The pictures, and labels [B, 9]: the parameters of each transform, all zero for an unchanged picture.
  """
  matrices, offsets, labels = jax.vmap(alone(_affine), (0, None))(keys, probability)
  return jax.vmap(_warp)(images, matrices, offsets * jnp.array(images.shape[1:3])[None]), labels


def _affine(key, probability):
  """The source of a pixel, matrix [2, 2] @ (y, x) + offset [2] in units of the picture's sides, and the label."""
  key_made, key_flip, key_normal, key_angle = jax.random.split(key, 4)
  upside, scaled, turned, stretched, moved = jax.random.uniform(key_made, (5,)) < probability
  mirror, flip, along = jax.random.bernoulli(key_flip, shape=(3,))
  normal = jax.random.normal(key_normal, (4,)) * jnp.stack([scaled, stretched, moved, moved])
  turn, direction = jnp.pi * jax.random.uniform(key_angle, (2,), minval=-1.0) * jnp.stack([turned, along])
  scale, stretch, down, right = normal
  flip &= upside
  label = jnp.stack([
    mirror, flip, scale, jnp.cos(turn) - 1, jnp.sin(turn), stretch * jnp.cos(direction), stretch * jnp.sin(direction),
    right, down,
  ])  # fmt: skip
  squeeze = _rotation(direction) @ jnp.diag(jnp.exp2(0.2 * stretch * jnp.array([1.0, -1.0]))) @ _rotation(-direction)
  flips = jnp.diag(1.0 - 2 * jnp.stack([flip, mirror]))
  matrix = flips @ (jnp.exp2(-0.2 * scale) * _rotation(-turn)) @ squeeze
  return matrix, -matrix @ (0.125 * jnp.stack([down, right])), label


def _rotation(angle):
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return jnp.array([[cos, -sin], [sin, cos]])


def _warp(image, matrix, offset):
  middle = (jnp.array(image.shape[:2]) - 1) / 2
  places = jnp.stack(jnp.meshgrid(*(jnp.arange(n) for n in image.shape[:2]), indexing="ij"))
  places = jnp.einsum("ij,jhw->ihw", matrix, places - middle[:, None, None]) + (middle + offset)[:, None, None]
  sample = lambda channel: jax.scipy.ndimage.map_coordinates(channel, list(places), order=1, mode="mirror")
  return jax.vmap(sample, -1, -1)(image)


def shift(keys: Array, images: Array, most: int) -> Array:
  """Shifts each of images [B, H, W, C] by whole pixels, at most `most` along each axis; edges are replicated."""
  if not most:
    return images
  padded = jnp.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")

  corners = jax.vmap(alone(lambda key: jax.random.randint(key, (2,), 0, 2 * most + 1)))(keys)
  cut = lambda corner, image: jax.lax.dynamic_slice(image, (*corner, 0), images.shape[1:])
  return jax.vmap(cut)(corners, padded)
