import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian
from traced import traced

import diffjax
from diffjax import editing, grids, samplers

A, B, WIDE = Gaussian(-0.5, 0.4), Gaussian(0.7, 0.4), Gaussian(0.0, 2.0)


def test_the_old_name_warns():
  with pytest.warns(DeprecationWarning, match=r"editing\.Compose is now diffjax\.editing\.Ensemble"):
    assert editing.Compose is editing.Ensemble
  assert not hasattr(editing, "Composed")


def log_density(oracle, x, sigma):
  return -jnp.square(x - oracle.mean) / (2 * (oracle.std**2 + sigma**2))


@pytest.mark.slow
def test_score_is_that_of_the_product(x64):
  x, sigma = jnp.linspace(-2, 2, 7)[:, None], jnp.asarray(0.6)
  conjunction = editing.Ensemble(WIDE, (A, B), (0.9, 1.2))
  density = lambda x: (
    0.9 * log_density(A, x, sigma) + 1.2 * log_density(B, x, sigma) - 1.1 * log_density(WIDE, x, sigma)
  ).sum()
  np.testing.assert_allclose(conjunction(x, sigma), x + sigma**2 * jax.grad(density)(x), rtol=1e-9)


@pytest.mark.slow
def test_two_models_of_one_width_meet_halfway(x64):
  sigmas = grids.exponential(200, 1e-3, 1e3)
  x = sigmas[0] * jnp.linspace(-2, 2, 5)[:, None]
  both = editing.Ensemble(A, (B,), (0.25,))
  drawn = diffjax.sample(both, samplers.Heun(), x, sigmas, key=jax.random.key(0))
  middle = Gaussian(-0.5 + 0.25 * 1.2, 0.4)
  np.testing.assert_allclose(drawn, middle.flow(x, sigmas[0], 0.0), atol=1e-3)


def test_weights_are_traced_and_may_be_each_samples_own():
  x, sigma = jnp.ones((2, 3)), jnp.asarray(0.5)
  call = traced(lambda denoiser: denoiser(x, sigma))
  for weights in (jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0])):
    found = call(editing.Ensemble(A, (B,), (weights,)))
    expected = [(B if weight else A)(x[:1], sigma)[0] for weight in weights]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
  assert call.traces == 1


def test_as_many_weights_as_models():
  with pytest.raises(ValueError, match="there are 2 others, but 1 weights"):
    editing.Ensemble(WIDE, (A, B), (1.0,))(jnp.ones((1, 1)), jnp.asarray(1.0))
