"""Layers against their definitions in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.networks.attention import attend, explicit_attention
from diffjax.networks.layers import (
  Dense,
  FourierEmbedding,
  GroupNorm,
  add_bias,
  dropout,
  group_count,
  normalise,
  sinusoidal_embedding,
)


def group_norm(x, groups, eps):
  x = np.asarray(x, np.float64)
  g = x.reshape(*x.shape[:3], groups, -1)
  mean, var = g.mean((1, 2, 4), keepdims=True), g.var((1, 2, 4), keepdims=True)
  return ((g - mean) / np.sqrt(var + eps)).reshape(x.shape)


@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (100.0, 1.0), (1000.0, 0.1), (-3.0, 1e-3)])
def test_group_norm_against_float64(mean, std):
  x = mean + std * jax.random.normal(jax.random.key(1), (2, 8, 8, 32))
  norm = GroupNorm(num_groups=8)
  y = norm.apply(norm.init(jax.random.key(0), x), x)
  # One rounding of x, seen from the normalised scale, is the best that float32 can do.
  tolerance = 4e-6 + 4 * np.spacing(np.float32(abs(mean))) / std
  np.testing.assert_allclose(y, group_norm(x, 8, 1e-6), atol=tolerance)


def test_group_norm_scale_and_shift_and_its_parameters():
  keys = jax.random.split(jax.random.key(2), 5)
  x = jax.random.normal(keys[0], (3, 4, 4, 16))
  weight, bias = jax.random.normal(keys[1], (16,)), jax.random.normal(keys[2], (16,))
  scale, shift = jax.random.normal(keys[3], (3, 16)), jax.random.normal(keys[4], (3, 16))
  y = GroupNorm(num_groups=4, eps=1e-5).apply({"params": {"scale": weight, "bias": bias}}, x, scale, shift)
  expected = group_norm(x, 4, 1e-5) * np.asarray(weight) + np.asarray(bias)
  expected = expected * (1 + np.asarray(scale)[:, None, None]) + np.asarray(shift)[:, None, None]
  np.testing.assert_allclose(y, expected, atol=1e-5)


def test_group_norm_of_bfloat16_has_float32_statistics():
  x = (3 + jax.random.normal(jax.random.key(3), (2, 32, 32, 8))).astype(jnp.bfloat16)
  norm = GroupNorm(num_groups=2)
  params = norm.init(jax.random.key(0), x)
  y = norm.apply(params, x)
  assert y.dtype == jnp.bfloat16 and params["params"]["scale"].dtype == jnp.float32
  np.testing.assert_allclose(y.astype(jnp.float32), group_norm(x, 2, 1e-6), atol=2**-8 * 4)


def test_group_count_divides():
  assert [group_count(channels, 32) for channels in (256, 128, 96, 32, 144, 2)] == [32, 32, 24, 8, 24, 1]


@pytest.mark.parametrize("length, source", [(16, 16), (9, 5)])
def test_attention_is_softmax_of_scaled_products(length, source):
  keys = jax.random.split(jax.random.key(4), 3)
  q = jax.random.normal(keys[0], (2, length, 3, 8))
  k, v = (jax.random.normal(key, (2, source, 3, 8)) for key in keys[1:])
  logits = np.einsum("blhd,bshd->bhls", *(np.asarray(a, np.float64) for a in (q, k))) / np.sqrt(8)
  weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  expected = np.einsum("bhls,bshd->blhd", weights, np.asarray(v, np.float64))
  for f in (attend, explicit_attention, jax.nn.dot_product_attention):
    np.testing.assert_allclose(f(q, k, v), expected, atol=1e-5)
  gradients = lambda f: jax.grad(lambda q, k, v: jnp.square(f(q, k, v)).sum(), (0, 1, 2))(q, k, v)
  for a, b in zip(gradients(attend), gradients(jax.nn.dot_product_attention)):
    np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_attention_elsewhere_is_that_of_jax_nn(platform):
  q = jnp.ones((2, 16, 4, 8))

  def products(f, platform):
    text = jax.jit(f).trace(q, q, q).lower(lowering_platforms=(platform,)).as_text()
    return [line.split("batching_dims", 1)[1] for line in text.splitlines() if "stablehlo.dot_general" in line]

  assert len(products(attend, platform)) == 2
  assert products(attend, platform) == products(jax.nn.dot_product_attention, platform) != products(attend, "cpu")


def test_sinusoidal_embedding_is_the_published_formula():
  t, n = np.array([0.0, 1.0, 999.0]), 8
  for endpoint, last in ((True, 3), (False, 4)):
    angles = t[:, None] * 10000.0 ** (-np.arange(4) / last)
    expected = np.concatenate([np.sin(angles), np.cos(angles)], -1)
    got = sinusoidal_embedding(jnp.asarray(t, jnp.float32), n, endpoint=endpoint)
    np.testing.assert_allclose(got, expected, atol=2e-4)


def test_fourier_frequencies_are_frozen():
  t = jnp.array([0.3, -1.0])
  module = FourierEmbedding(6)
  params = module.init(jax.random.key(0), t)
  angles = 2 * np.pi * np.asarray(t, np.float64)[:, None] * np.asarray(params["params"]["frequencies"], np.float64)
  np.testing.assert_allclose(module.apply(params, t), np.concatenate([np.cos(angles), np.sin(angles)], -1), atol=2e-5)
  grad = jax.grad(lambda p: module.apply(p, t).sum())(params)
  assert not jnp.any(grad["params"]["frequencies"])


def test_dropout_mask_belongs_to_its_example():
  x, keys = jnp.ones((4, 6, 6, 8)), jax.random.split(jax.random.key(5), 4)
  y = dropout(x, 0.25, keys)
  np.testing.assert_array_equal(y[2:], dropout(x[2:], 0.25, keys[2:]))
  assert set(np.unique(y).tolist()) == {0.0, np.float32(1 / 0.75).item()}
  # 1152 draws: four standard deviations are 0.051.
  assert abs(float((y == 0).mean()) - 0.25) < 0.051
  assert not jnp.array_equal(y[0], y[1])
  assert dropout(x, 0.25, None) is x and dropout(x, 0.0, keys) is x


def test_dense_computes_in_its_dtype_with_float32_parameters():
  layer = Dense(4, dtype=jnp.bfloat16)
  params = layer.init(jax.random.key(0), jnp.ones((2, 3)))
  assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(params))
  assert layer.apply(params, jnp.ones((2, 3))).dtype == jnp.bfloat16


@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_group_norm_gradient_against_float64_differences(mean):
  keys = jax.random.split(jax.random.key(6), 4)
  x = mean + jax.random.normal(keys[0], (2, 4, 3, 8))
  dy = jax.random.normal(keys[1], x.shape)
  gain, offset = (jax.random.normal(key, (2, 8)) for key in keys[2:])
  got = jax.vjp(lambda *args: normalise(*args, 2, 1e-5), x, gain, offset)[1](dy)
  exact = [np.asarray(a, np.float64) for a in (x, gain, offset)]

  def loss(x, gain, offset):
    return (np.asarray(dy) * (group_norm(x, 2, 1e-5) * gain[:, None, None] + offset[:, None, None])).sum()

  for i, gradient in enumerate(got):
    numeric = np.zeros(exact[i].shape)
    for index in np.ndindex(*exact[i].shape):
      moved = [[a.copy() for a in exact] for _ in range(2)]
      moved[0][i][index] += 1e-5
      moved[1][i][index] -= 1e-5
      numeric[index] = (loss(*moved[0]) - loss(*moved[1])) / 2e-5
    np.testing.assert_allclose(gradient, numeric, atol=1e-4)


def test_bias_gradient_is_the_sum():
  y, bias = jax.random.normal(jax.random.key(7), (3, 5, 4, 6)), jnp.arange(6.0)
  out, vjp = jax.vjp(add_bias, y, bias)
  np.testing.assert_array_equal(out, np.asarray(y) + np.arange(6, dtype=np.float32))
  dy, dbias = vjp(y)
  np.testing.assert_array_equal(dy, y)
  np.testing.assert_allclose(dbias, np.asarray(y, np.float64).sum((0, 1, 2)), atol=1e-5)
