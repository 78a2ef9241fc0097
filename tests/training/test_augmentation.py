"""Shifts and mirrors keep the pixels, and depend on a picture's own key alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import randomness
from diffjax.training import augmentation

KEYS = randomness.sample_keys(jax.random.key(0), 64)
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


@pytest.mark.slow
def test_non_leaking_without_further_changes_only_mirrors():
  made, labels = augmentation.non_leaking(KEYS, IMAGES, 0.0)
  np.testing.assert_array_equal(labels[:, 1:], 0)
  expected = np.where(labels[:, 0, None, None, None] == 1, IMAGES[:, :, ::-1], IMAGES)
  np.testing.assert_allclose(made, expected, atol=1e-5)
  assert 16 < labels[:, 0].sum() < 48


@pytest.mark.slow
def test_each_change_is_as_frequent_as_asked():
  labels = np.asarray(
    augmentation.non_leaking(randomness.sample_keys(jax.random.key(2), 4000), IMAGES[:1].repeat(4000, 0), 0.12)[1]
  )
  assert labels.shape == (4000, augmentation.AUGMENT_DIM)
  upside, *others = (labels[:, np.array(columns)].any(1).mean() for columns in ([1], [2], [3, 4], [5, 6], [7, 8]))
  np.testing.assert_allclose(others, 0.12, atol=0.02)
  np.testing.assert_allclose(upside, 0.06, atol=0.015)
  scales = labels[labels[:, 2] != 0, 2]
  np.testing.assert_allclose([scales.mean(), scales.std()], [0, 1], atol=0.15)


@pytest.mark.parametrize(
  ("turn", "scale", "move"), [(0.0, 0.0, (0.5, -0.25)), (np.pi / 2, 0.0, (0, 0)), (0.7, 0.9, (0.1, 0.3))]
)
def test_pixels_come_from_where_the_changes_say(turn, scale, move, x64):
  """A picture that is linear in y and x shows where each pixel came from: the changes undone one by one."""
  size = 33
  y, x = np.meshgrid(*(np.arange(size) - 16.0,) * 2, indexing="ij")
  matrix = np.exp2(-0.2 * scale) * np.asarray(augmentation._rotation(-turn))
  offset = -matrix @ (0.125 * np.array(move)) * size
  for plane, row in ((y, 0), (x, 1)):
    made = augmentation._warp(jnp.asarray(plane)[:, :, None], jnp.asarray(matrix), jnp.asarray(offset))[:, :, 0]
    undone = np.stack([y, x]) - 0.125 * size * np.array(move)[:, None, None]
    undone = np.einsum("ij,jhw->ihw", [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]], undone)
    expected = (undone / 2 ** (0.2 * scale))[row]
    middle = (slice(13, 20),) * 2
    np.testing.assert_allclose(made[middle], expected[middle], atol=1e-9)
