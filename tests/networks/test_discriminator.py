"""The discriminator of patches: what it sees, and that images do not mix."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.networks import PatchDiscriminator
from diffjax.networks.layers import GroupNorm


@pytest.fixture(scope="module")
def judged():
  network = PatchDiscriminator(width=4, num_groups=1)
  x = jax.random.normal(jax.random.key(0), (2, 96, 96, 3))
  return network, network.init(jax.random.key(1), x), x


def test_logits_of_overlapping_patches(judged):
  network, params, x = judged
  shape = jax.eval_shape(network.apply, params, x).shape
  assert shape == (2, 10, 10, 1)  # 96 / 8, less one for each of the last two convolutions
  widths = [params["params"][f"conv_{i}"]["kernel"].shape[-1] for i in (1, 2, 3)]
  assert widths == [8, 16, 32] and "bias" not in params["params"]["conv_1"]


def test_a_logit_sees_seventy_pixels(judged):
  network, params, _ = judged
  positive = jax.tree.map(jnp.abs, params)  # so that nothing cancels

  def without_norms(call, args, kwargs, context):
    return args[0] if isinstance(context.module, GroupNorm) else call(*args, **kwargs)

  def logit(x):
    with nn.intercept_methods(without_norms):
      return network.apply(positive, x)[0, 5, 5, 0]

  seen = np.flatnonzero(np.abs(jax.grad(logit)(jnp.ones((1, 96, 96, 3)))).sum(axis=(0, 2, 3)))
  assert seen[-1] - seen[0] + 1 == 70


def test_an_image_is_judged_alone(judged):
  network, params, x = judged
  both = network.apply(params, x)
  np.testing.assert_allclose(network.apply(params, x[1:]), both[1:], rtol=1e-4, atol=1e-6)
