"""Attention in chunks: equal to attention at once, with its memory bounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.networks import attention
from diffjax.networks.attention import attend, explicit_attention
from diffjax.system import compilation

MIB = 2**20


def random_inputs(B, L, S, heads, d):
  keys = jax.random.split(jax.random.key(0), 3)
  return [jax.random.normal(key, (B, length, heads, d)) for key, length in zip(keys, (L, S, S))]


@pytest.mark.parametrize(("L", "S", "causal"), [(13, 13, True), (16, 7, False)])
def test_chunks_equal_the_whole(monkeypatch, causal, L, S):
  inputs = random_inputs(2, L, S, 3, 4)

  def gradients(*inputs):
    return jax.grad(lambda *args: jnp.sin(attend(*args, causal=causal)).sum(), (0, 1, 2))(*inputs)

  whole, slopes = attend(*inputs, causal=causal), gradients(*inputs)
  monkeypatch.setattr(attention, "MAX_LOGITS", 2 * 3 * S * 4)  # four queries at a time
  np.testing.assert_allclose(attend(*inputs, causal=causal), whole, atol=1e-6)
  for a, b in zip(gradients(*inputs), slopes):
    np.testing.assert_allclose(a, b, atol=1e-6)


def memory(function, *shapes):
  """Bytes that a compiled function needs besides its arguments and results, as its compiler counts them."""
  shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return compilation.jit(function).lower(*shapes).compile().memory_analysis().temp_size_in_bytes


def test_memory_of_large_latents():
  shape = (8, 64 * 64, 8, 40)  # the first level of Stable Diffusion 1 for 512x512 pixels, batch 8
  inputs = 4 * np.prod(shape)
  assert memory(explicit_attention, *[shape] * 3) > 4096 * MIB
  assert memory(attend, *[shape] * 3) < 5 * inputs + 200 * MIB
  gradient = jax.grad(lambda q, k, v: attend(q, k, v).sum(), (0, 1, 2))
  assert memory(gradient, *[shape] * 3) < 12 * inputs + 300 * MIB


def test_memory_of_the_decoder_attention():
  shape = (1, 128 * 128, 1, 512)  # the autoencoder's middle for 1024x1024 pixels
  assert memory(attend, *[shape] * 3) < 5 * 4 * np.prod(shape) + 200 * MIB
