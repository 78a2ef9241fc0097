"""Changes of weights, by what they do to the layer's output."""

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.adapters import Decomposed, Full, Kronecker, LowRank, merge
from diffjax.networks.convolution import conv2d


def normal(*shape, seed=0):
  return jax.random.normal(jax.random.key(seed), shape)


def merged(weight, change, strength=1.0):
  return merge({"params": {"layer": {"kernel": weight}}}, {"layer/kernel": (change,)}, strength)["params"]["layer"][
    "kernel"
  ]


def test_a_low_rank_convolution_is_two_convolutions_beside_the_first():
  x, weight = normal(2, 6, 6, 5), normal(3, 3, 5, 7, seed=1)
  down, up = normal(3, 3, 5, 2, seed=2), normal(2, 7, seed=3)
  beside = conv2d(x, weight) + 0.3 * 0.5 * conv2d(conv2d(x, down), up[None, None], 1, ((0, 0), (0, 0)))
  np.testing.assert_allclose(conv2d(x, merged(weight, LowRank(down, up, 0.5), 0.3)), beside, atol=1e-4)


def test_a_kronecker_product_acts_on_a_matrix_of_inputs():
  x, left, right = normal(3 * 4), normal(3, 2, seed=1), normal(4, 5, seed=2)
  expected = left.T @ x.reshape(3, 4) @ right
  added = merged(jnp.zeros((12, 10)), Kronecker(Full(left), Full(right)))
  np.testing.assert_allclose(x @ added, expected.reshape(-1), atol=1e-5)


def test_magnitudes_are_the_norms_afterwards():
  weight, change = normal(3, 3, 4, 6), LowRank(normal(3, 3, 4, 2, seed=1), normal(2, 6, seed=2))
  by_output = merged(weight, Decomposed(change, jnp.arange(1.0, 7.0)))
  np.testing.assert_allclose(jnp.sqrt(jnp.square(by_output).sum((0, 1, 2))), np.arange(1, 7), rtol=1e-5)
  by_input = merged(weight, Decomposed(change, jnp.arange(1.0, 5.0), by_input=True))
  np.testing.assert_allclose(jnp.sqrt(jnp.square(by_input).sum((0, 1, 3))), np.arange(1, 5), rtol=1e-5)


def test_at_strength_zero_nothing_changes():
  weight = normal(8, 12).astype(jnp.bfloat16)
  change = LowRank(normal(8, 2, seed=1), normal(2, 4, seed=2))
  params, parts = {"params": {"layer": {"kernel": weight}}}, {"layer/kernel": (None, change, None)}
  same = merge(params, parts, 0.0)["params"]["layer"]["kernel"]
  assert same.dtype == jnp.bfloat16
  np.testing.assert_array_equal(same, weight)
  other = merge(params, parts, 1.0)["params"]["layer"]["kernel"]
  np.testing.assert_array_equal(other[:, :4], weight[:, :4])
  np.testing.assert_array_equal(other[:, 8:], weight[:, 8:])
  assert (other[:, 4:8] != weight[:, 4:8]).any()
