"""The discriminator of patches: what it sees, and that images do not mix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.networks import PatchDiscriminator


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
  # without norms, which see the whole image
  plain = jax.tree.map(jnp.abs, params)
  bare = network.clone(num_groups=1)

  def logit(x):
    for name, stride in (("conv_in", 2), ("conv_1", 2), ("conv_2", 2), ("conv_3", 1), ("conv_out", 1)):
      kernel = plain["params"][name]["kernel"]
      x = jax.lax.conv_general_dilated(
        x, kernel, (stride,) * 2, [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
      )
    assert x.shape == jax.eval_shape(bare.apply, params, jnp.ones((1, 96, 96, 3))).shape
    return x[0, 5, 5, 0]

  seen = np.flatnonzero(np.abs(jax.grad(logit)(jnp.ones((1, 96, 96, 3)))).sum(axis=(0, 2, 3)))
  assert seen[-1] - seen[0] + 1 == 70


def test_an_image_is_judged_alone(judged):
  network, params, x = judged
  both = network.apply(params, x)
  np.testing.assert_allclose(network.apply(params, x[1:]), both[1:], rtol=1e-4, atol=1e-6)
