"""CLIP's preprocessing against Pillow, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffjax.networks import preprocess
from diffjax.networks.preprocess import CLIP_MEAN, CLIP_STD, SIGLIP_MEAN, SIGLIP_STD, bicubic_matrix, resize

SIZES = [(30, 41), (50, 29), (16, 16), (17, 16), (8, 8), (120, 5), (33, 64)]
ROUNDING = (0.5 * 1.3 + 0.5) / 255 / min(CLIP_STD)
"""Half a level at each of Pillow's two passes; the second amplifies the first's by the kernel's absolute sum, 1.3."""


def cropped(array, size):
  top, left = ((n - size) // 2 for n in array.shape[:2])
  return array[top : top + size, left : left + size]


def resized(height, width, size):
  return (width * size // min(height, width), height * size // min(height, width))


@pytest.mark.parametrize("height, width", SIZES)
def test_resize_is_pillows_in_floating_point(height, width):
  x = np.random.default_rng(0).random((height, width), dtype=np.float32)
  pillow = np.asarray(Image.fromarray(x).resize(resized(height, width, 16), Image.Resampling.BICUBIC))
  ours = resize(jnp.asarray(x)[None, :, :, None], 16)[0, :, :, 0]
  np.testing.assert_allclose(ours, cropped(pillow, 16), atol=1e-6)


@pytest.mark.parametrize("height, width", SIZES)
def test_uint8_pictures_differ_from_pillows_by_its_rounding(height, width):
  x = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
  pillow = np.asarray(Image.fromarray(x).resize(resized(height, width, 16), Image.Resampling.BICUBIC))
  expected = (cropped(pillow, 16) / 255 - CLIP_MEAN) / CLIP_STD
  difference = np.abs(preprocess(jnp.asarray(x)[None], 16)[0] - expected)
  assert difference.max() < (1e-5 if (height, width) in ((16, 16), (17, 16)) else ROUNDING)


def test_without_a_resize_nothing_is_rounded():
  x = np.random.default_rng(2).integers(0, 256, (1, 20, 16, 3), dtype=np.uint8)
  expected = (x[:, 2:18] / 255 - CLIP_MEAN) / CLIP_STD
  np.testing.assert_allclose(preprocess(jnp.asarray(x), 16), expected, atol=1e-6)


def test_ranges_and_gray():
  levels = np.random.default_rng(3).integers(0, 256, (2, 12, 9, 1), dtype=np.uint8)
  whole = preprocess(jnp.asarray(levels), 6)
  assert whole.shape == (2, 6, 6, 3) and whole.dtype == jnp.float32
  np.testing.assert_allclose(preprocess(jnp.asarray(levels / 127.5 - 1, jnp.float32), 6), whole, atol=1e-5)
  np.testing.assert_allclose(preprocess(jnp.asarray(levels).repeat(3, axis=3), 6), whole, atol=1e-6)


def test_siglips_squeezes_and_centres():
  x = jnp.asarray(np.random.default_rng(4).random((1, 20, 10, 3)), jnp.float32) * 2 - 1
  got = preprocess(x, 5, mean=SIGLIP_MEAN, std=SIGLIP_STD, crop=False, clip=False)
  expected = jax.image.resize(x, (1, 5, 5, 3), "cubic")
  np.testing.assert_allclose(got, expected, atol=1e-5)


def test_values_beyond_are_clipped_or_pass_with_their_gradient():
  x = jnp.full((1, 4, 4, 3), 3.0)
  total = lambda x, clip: preprocess(x, 4, clip=clip).sum()
  np.testing.assert_allclose(preprocess(x, 4)[0, 0, 0], (1 - np.array(CLIP_MEAN)) / CLIP_STD, rtol=1e-5)
  np.testing.assert_array_equal(jax.grad(total)(x, True), 0)
  gradient = np.broadcast_to(0.5 / np.array(CLIP_STD), x.shape)
  np.testing.assert_allclose(jax.grad(total)(x, False), gradient, rtol=1e-5)


def test_gradient_is_the_transpose():
  keys = jax.random.split(jax.random.key(0))
  x, y = jax.random.normal(keys[0], (1, 9, 14, 3)), jax.random.normal(keys[1], (1, 6, 6, 3))
  out, vjp = jax.vjp(lambda x: resize(x, 6), x)
  np.testing.assert_allclose((out * y).sum(), (x * vjp(y)[0]).sum(), rtol=1e-4)


def test_weights_of_a_line():
  np.testing.assert_array_equal(bicubic_matrix(5, 5, 3), np.eye(5)[1:4])
  np.testing.assert_allclose(bicubic_matrix(40, 7, 7).sum(1), 1)
  # Keys's kernel at a quarter of a pixel, worked out by hand; then four pixels as one, the kernel four times as wide
  quarter = [-0.0703125, 0.8671875, 0.2265625, -0.0234375]
  np.testing.assert_allclose(bicubic_matrix(9, 18, 18)[9, 3:7], quarter)
  wide = np.array([0.7275390625, 0.9638671875, 0.9638671875, 0.7275390625])
  np.testing.assert_allclose(bicubic_matrix(4, 1, 1)[0], wide / wide.sum())


@pytest.mark.parametrize(
  "images, size",
  [
    (jnp.zeros((4, 4, 3)), 4),
    (jnp.zeros((1, 4, 4, 2)), 4),
    (jnp.zeros((1, 0, 4, 3)), 4),
    (jnp.zeros((1, 4, 4, 3)), 0),
    (jnp.zeros((1, 4, 4, 3), jnp.int32), 4),
  ],
)
def test_what_does_not_fit_is_said(images, size):
  with pytest.raises(ValueError, match="preprocess expects"):
    preprocess(images, size)
