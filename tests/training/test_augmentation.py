"""Shifts and mirrors keep the pixels, and depend on a picture's own key alone."""

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import batching
from diffjax.training import augmentation

KEYS = batching.sample_keys(jax.random.key(0), 64)
IMAGES = jax.random.normal(jax.random.key(1), (64, 5, 5, 1))


def test_shift_moves_by_whole_pixels_in_every_direction():
  moved = augmentation.shift(KEYS, IMAGES, 1)
  padded = np.pad(IMAGES, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
  offsets = []
  for before, after in zip(padded, moved):
    found = [(y, x) for y in range(3) for x in range(3) if np.array_equal(before[y : y + 5, x : x + 5], after)]
    offsets += found
    assert len(found) == 1
  assert set(offsets) == {(y, x) for y in range(3) for x in range(3)}
  np.testing.assert_array_equal(augmentation.shift(KEYS, IMAGES, 0), IMAGES)


def test_flip_mirrors_about_half():
  flipped = augmentation.flip(KEYS, IMAGES)
  mirrored = (flipped == IMAGES[:, :, ::-1]).all((1, 2, 3))
  assert ((flipped == IMAGES).all((1, 2, 3)) ^ mirrored).all()
  assert 16 < mirrored.sum() < 48


def test_a_picture_depends_on_its_own_key():
  for change in (augmentation.flip, lambda keys, images: augmentation.shift(keys, images, 2)):
    np.testing.assert_array_equal(change(KEYS, IMAGES)[3:7], change(KEYS[3:7], jnp.asarray(IMAGES)[3:7]))
