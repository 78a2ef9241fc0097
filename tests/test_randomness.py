"""A sample's random values are its own key's, whatever the implementation of keys and the size of the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Mixture

import diffjax
from diffjax import grids, guidance, likelihood, randomness, samplers
from diffjax.networks.layers import dropout
from diffjax.training import augmentation

IMPLEMENTATIONS = ("rbg", "unsafe_rbg", "threefry2x32")
IMAGES = jnp.linspace(-1, 1, 8 * 6 * 6 * 3).reshape(8, 6, 6, 3)
VIEWS = guidance.Cutouts(1, 1, size=4)


def energy(x0, key):
  return (x0 * randomness.normal(key, x0.shape)).sum((1, 2, 3))


DRAWS = {
  "normal": lambda keys, x: randomness.normal(keys, x.shape),
  "uniform": lambda keys, x: randomness.uniform(keys),
  "fold_in": lambda keys, x: randomness.normal(randomness.fold_in(keys, 3), x.shape),
  "split": lambda keys, x: randomness.normal(randomness.split(keys, 3)[1], x.shape),
  "dropout": lambda keys, x: dropout(jnp.ones_like(x), 0.5, keys),
  "dequantize": lambda keys, x: likelihood.dequantize(x, keys),
  "probes": lambda keys, x: jnp.moveaxis(likelihood._directions(x, keys, 3), 1, 0),
  "augmentation": lambda keys, x: augmentation.non_leaking(keys, x, 0.5)[0],
  "shift": lambda keys, x: augmentation.shift(keys, x, 2),
  "views": lambda keys, x: VIEWS(x, keys, 1),
  "energy over noise": lambda keys, x: guidance.EnergyGuidance(Mixture(), energy, num_samples=3)(x, 1.0, key=keys),
  "a walk": lambda keys, x: diffjax.sample(
    Mixture(), samplers.Euler(1.0), randomness.normal(keys, x.shape), grids.karras(3), key=keys
  ),
}


@pytest.mark.parametrize(
  "implementation", [pytest.param(name, marks=pytest.mark.slow if "rbg" in name else ()) for name in IMPLEMENTATIONS]
)
@pytest.mark.parametrize("name", DRAWS)
def test_two_halves_of_a_batch_are_the_whole(name, implementation):
  draw = jax.jit(DRAWS[name])
  keys = randomness.sample_keys(jax.random.key(0, impl=implementation), 8)
  halves = [draw(keys[part], IMAGES[part]) for part in (slice(4), slice(4, 8))]
  whole = np.asarray(draw(keys, IMAGES))
  np.testing.assert_allclose(whole, np.concatenate(halves), rtol=1e-5, atol=1e-5)
  assert np.abs(draw(keys[::-1], IMAGES) - whole).max() > 1e-3  # it does depend on the key


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_keys_of_samples_are_those_of_their_numbers(implementation):
  key = jax.random.key(0, impl=implementation)
  alone = [jax.random.normal(jax.random.fold_in(key, number), (3,)) for number in range(8)]
  np.testing.assert_array_equal(randomness.normal(randomness.sample_keys(key, 8), (8, 3)), jnp.stack(alone))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_further_axis_of_keys_changes_nothing(implementation):
  keys = randomness.sample_keys(jax.random.key(0, impl=implementation), 8)
  mapped = jax.vmap(lambda keys: randomness.normal(keys, (4, 3)))(keys.reshape(2, 4)).reshape(8, 3)
  np.testing.assert_array_equal(mapped, randomness.normal(keys, (8, 3)))
