"""What belongs to each sample of a batch: keys, levels, norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffjax import arrays, randomness

KEY = jax.random.key(3)


def test_expand():
  x = jnp.ones((3, 4, 5, 2))
  assert arrays.expand(2.0, x).shape == ()
  assert arrays.expand(jnp.ones(3), x).shape == (3, 1, 1, 1)
  assert arrays.expand(jnp.ones((3, 1, 1, 1)), x).shape == (3, 1, 1, 1)

  with pytest.raises(ValueError, match=r"x's 3 samples, got shape \(2,\)"):
    arrays.expand(jnp.ones(2), x)


def test_root_has_no_slope_at_zero():
  np.testing.assert_allclose(arrays.safe_sqrt(jnp.array([0.0, 4.0])), [0, 2])
  np.testing.assert_allclose(jax.vmap(jax.grad(arrays.safe_sqrt))(jnp.array([0.0, 4.0])), [0, 0.25])
  assert np.isnan(arrays.safe_sqrt(jnp.array([-1.0, np.nan]))).all()


def test_within():
  np.testing.assert_array_equal(arrays.within(jnp.array([0.5, 1.0, 2.0, 3.0]), (1.0, 2.0)), [False, True, True, False])
  with pytest.raises(ValueError, match="must begin with the lower sigma"):
    arrays.within(jnp.array([0.5]), (2.0, 1.0))


def test_noise_of_a_sample_is_its_keys_alone():
  keys = randomness.sample_keys(KEY, 4)
  whole = randomness.normal(keys, (4, 3, 2))
  halves = [randomness.normal(keys[:2], (2, 3, 2)), randomness.normal(keys[2:], (2, 3, 2))]
  np.testing.assert_array_equal(whole, jnp.concatenate(halves))
  np.testing.assert_array_equal(whole[:2], randomness.normal(randomness.sample_keys(KEY, 2), (2, 3, 2)))


def test_all_derived_keys_differ():
  keys = randomness.sample_keys(KEY, 5)
  first, second = randomness.split(keys)
  derived = jnp.concatenate([keys, first, second, randomness.fold_in(keys, 7), randomness.fold_in(keys, 8)])
  assert len(np.unique(jax.random.key_data(derived), axis=0)) == 25


def test_raw_and_ready_keys_are_accepted():
  keys = randomness.sample_keys(KEY, 3)
  same = lambda other: np.testing.assert_array_equal(jax.random.key_data(keys), jax.random.key_data(other))
  same(randomness.sample_keys(keys, 3))
  same(randomness.sample_keys(jax.random.PRNGKey(3), 3))
  same(jax.jit(randomness.sample_keys, static_argnums=1)(KEY, 3))


def test_a_wrong_number_of_keys_is_refused():
  with pytest.raises(ValueError, match="one for each of the 4 samples"):
    randomness.sample_keys(jax.random.split(KEY, 3), 4)


def test_normal_and_uniform_are_what_they_say():
  keys = randomness.sample_keys(KEY, 2000)
  assert scipy.stats.ks_1samp(np.ravel(randomness.normal(keys, (2000, 2))), scipy.stats.norm.cdf).pvalue > 1e-3
  u = np.asarray(randomness.uniform(keys))
  assert scipy.stats.ks_1samp(u, scipy.stats.uniform.cdf).pvalue > 1e-3
  assert u.min() > 0 and u.max() < 1


def test_stratified_spreads_evenly_and_has_the_same_marginal():
  seeds = jax.random.split(KEY, 2000)
  drawn = np.asarray(jax.vmap(lambda key: randomness.stratified(key, jnp.arange(8), 8))(seeds))
  assert drawn.min() > 0 and drawn.max() < 1
  np.testing.assert_array_equal(np.sort(np.floor(drawn * 8), axis=1), np.tile(np.arange(8), (2000, 1)))
  for sample in drawn.T:
    assert scipy.stats.ks_1samp(sample, scipy.stats.uniform.cdf).pvalue > 1e-4
  # the mean of 8 independent uniform numbers varies by 1 / (12 * 8), that of 8 sharing the interval by 1 / (12 * 8^2)
  np.testing.assert_allclose(drawn.mean(axis=1).var(), 1 / (12 * 64), rtol=0.1)


def test_a_part_of_a_stratified_batch_is_that_part():
  whole = randomness.stratified(KEY, jnp.arange(8), 8)
  np.testing.assert_array_equal(randomness.stratified(KEY, jnp.arange(4, 8), 8), whole[4:])
