"""A convolution of a doubled image, against doubling by NumPy and then convolving."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.networks.convolution import conv2d
from diffjax.networks.layers import Conv
from diffjax.networks.resample import downsample, upsample, upsampled_conv2d

SHAPES = [(4, 4), (1, 1), (3, 5)]


def example(shape):
  keys = jax.random.split(jax.random.key(0), 3)
  draw = lambda key, *shape: jax.random.normal(key, shape)
  H, W = shape
  return draw(keys[0], 2, H, W, 3), draw(keys[1], 3, 3, 3, 4), draw(keys[2], 2, 2 * H, 2 * W, 4)


@pytest.mark.parametrize("shape", SHAPES)
def test_value(shape):
  x, kernel, _ = example(shape)
  doubled = np.repeat(np.repeat(x, 2, axis=1), 2, axis=2)
  np.testing.assert_array_equal(upsample(x), doubled)
  np.testing.assert_allclose(downsample(upsample(x)), x, rtol=1e-6)
  np.testing.assert_allclose(upsampled_conv2d(x, kernel), conv2d(doubled, kernel), atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients(shape):
  x, kernel, dy = example(shape)
  gradients = lambda f: jax.jit(lambda: jax.vjp(f, x, kernel)[1](dy))()
  expected = gradients(lambda x, kernel: conv2d(upsample(x), kernel))
  for ours, plain in zip(gradients(upsampled_conv2d), expected):
    np.testing.assert_allclose(ours, plain, atol=1e-4)


def test_mapped_over_kernels():
  x, kernel, _ = example((4, 4))
  kernels = jnp.stack([kernel, 2 * kernel])
  ours = jax.vmap(upsampled_conv2d, (None, 0))(x, kernels)
  np.testing.assert_allclose(ours[1], 2 * upsampled_conv2d(x, kernel), atol=1e-4)


def test_fewer_multiplications():
  """On CPU 4/9 of those of the plain form, by the compiled programs' own count."""
  if jax.default_backend() != "cpu":
    pytest.skip("elsewhere it is the plain form")
  x, kernel = jnp.ones((1, 16, 16, 32)), jnp.ones((3, 3, 32, 32))
  flops = lambda f: jax.jit(f).lower(x, kernel).compile().cost_analysis()["flops"]
  assert flops(upsampled_conv2d) < 0.55 * flops(lambda x, kernel: conv2d(upsample(x), kernel))


def test_module():
  x = example((4, 6))[0]
  conv = Conv(5, upsampled=True)
  params = conv.init(jax.random.key(0), x)
  np.testing.assert_allclose(conv.apply(params, x), Conv(5).apply(params, upsample(x)), atol=2e-5)
