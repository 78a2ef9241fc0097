import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian, Mixture
from traced import traced

import diffjax
from diffjax import grids, randomness, samplers
from diffjax.arrays import expand
from diffjax.samplers.adaptive import ERROR, TABLEAU, solve

pytestmark = pytest.mark.slow

HIGH, LOW = 80.0, 0.002
START = np.linspace(-2.5, 2.5, 6)[:, None] * HIGH
KEY = jax.random.key(0)


@traced
def draw(denoiser, x, sampler):
  return solve(denoiser, x, HIGH, LOW, key=KEY, sampler=sampler)


def exact(oracle):
  return oracle(jnp.asarray(oracle.flow(START, HIGH, LOW)), jnp.asarray(LOW))


def test_tableau_is_dormand_and_princes():
  """The conditions of order up to 4 on both solutions' weights."""
  nodes = np.array([0, *map(sum, TABLEAU)])
  np.testing.assert_allclose(nodes, [0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1], rtol=1e-12)
  fifth = np.array([*TABLEAU[-1], 0])
  for weights, order in ((fifth, 5), (fifth - ERROR, 4)):
    for power in range(order):
      np.testing.assert_allclose(weights @ nodes**power, 1 / (power + 1), rtol=1e-12)


@pytest.mark.parametrize("oracle", [Gaussian(), Mixture()], ids=["gaussian", "mixture"])
def test_error_follows_the_tolerance_without_compiling_anew(oracle, x64):
  before, errors, calls = draw.traces, [], []
  for tolerance in (1e-5, 1e-7, 1e-9):
    drawn, taken = draw(oracle, jnp.asarray(START), samplers.Adaptive(tolerance, tolerance))
    errors.append(float(jnp.abs(drawn - exact(oracle)).max()))
    calls.append(float(taken.mean()))
  assert draw.traces == before + 1
  assert np.all(np.array(errors) < np.array([2e-4, 2e-6, 2e-8])), errors
  # fifth order: a hundredth of the error for 100^(1/5) = 2.5 times the calls
  assert np.all(np.diff(np.log(calls)) < np.log(3)) and calls[0] < 60, calls


def test_counts_the_calls(x64):
  made = []

  def counting(x, sigma, cond=None, *, key=None):
    jax.debug.callback(lambda: made.append(None))
    return Mixture()(x, sigma)

  _, calls = solve(counting, jnp.asarray(START[:1]), HIGH, LOW, key=KEY)
  jax.effects_barrier()
  assert len(made) == int(calls[0]) > 20


def test_a_picture_and_its_calls_do_not_depend_on_its_batch(x64):
  keys = jax.random.split(KEY, len(START))
  noisy = lambda x, sigma, cond=None, *, key=None: (
    Mixture()(x, sigma) + 1e-9 * jax.vmap(lambda k: jax.random.normal(k, (1,)))(key)
  )
  together = solve(noisy, jnp.asarray(START), HIGH, LOW, key=keys)
  alone = solve(noisy, jnp.asarray(START[2:3]), HIGH, LOW, key=keys[2:3])
  assert len(set(together[1].tolist())) > 1
  np.testing.assert_allclose(alone[0], together[0][2:3], rtol=1e-12)
  assert alone[1] == together[1][2]


@pytest.mark.parametrize("num_steps", [2, 10])
def test_any_grid_gives_the_same_picture(num_steps, x64):
  drawn = diffjax.sample(
    Mixture(), samplers.Adaptive(1e-7, 1e-7), jnp.asarray(START), grids.karras(num_steps, LOW, HIGH), key=KEY
  )
  np.testing.assert_allclose(drawn, exact(Mixture()), atol=1e-5)


def test_float32_at_the_default_tolerance():
  drawn, calls = draw(Mixture(), jnp.asarray(START, jnp.float32), samplers.Adaptive())
  assert drawn.dtype == jnp.float32 and calls.max() < 100
  np.testing.assert_allclose(drawn, exact(Mixture()), atol=5e-4)


def test_gradient_reaches_start_labels_and_parameters(x64):
  """Through `sample`, whose loop holds integers and keys besides: of the flow, and of a scale inside the denoiser."""
  x, labels = jnp.asarray(START), {"label": jnp.arange(len(START))}
  sampler, sigmas = samplers.Adaptive(1e-8, 1e-8, 60), grids.karras(2, LOW, HIGH)

  def drawn(x, shift, labels):
    def denoiser(x, sigma, cond, *, key=None):
      bump = shift * expand(jnp.square(sigma / (1 + sigma)), x)
      return Mixture()(x, sigma) + bump * (cond["label"] == 2)[:, None]

    return diffjax.sample(denoiser, sampler, x, sigmas, key=KEY, cond=labels)

  slope_x, slope_shift = jax.jit(jax.grad(lambda *a: drawn(*a).sum(), (0, 1)))(x, 0.1, labels)
  values = jax.jit(drawn)
  numeric = (values(x + 1e-3, 0.1, labels) - values(x - 1e-3, 0.1, labels)) / 2e-3
  np.testing.assert_allclose(slope_x, numeric, rtol=1e-3)
  numeric = (values(x, 0.1 + 1e-4, labels) - values(x, 0.1 - 1e-4, labels)).sum() / 2e-4
  np.testing.assert_allclose(slope_shift, numeric, rtol=1e-3)


def test_what_is_not_done_in_time_is_nan():
  drawn, _ = draw(Mixture(), jnp.asarray(START), samplers.Adaptive(max_steps=2))
  assert jnp.isnan(drawn).all()
  broken = lambda x, sigma, cond=None, *, key=None: jnp.where(x > 0, jnp.nan, Mixture()(x, sigma))
  drawn, _ = solve(broken, jnp.asarray(START), HIGH, LOW, key=KEY)
  np.testing.assert_array_equal(jnp.isnan(drawn), START > 0)


@pytest.mark.parametrize(("sigma", "sigma_next"), [(1.0, 2.0), (1.0, 0.0), (jnp.nan, 0.1), (jnp.inf, 0.1)])
def test_levels_that_do_not_descend_are_refused(sigma, sigma_next):
  with pytest.raises(ValueError, match="finite, descend strictly"):
    solve(Gaussian(), jnp.asarray(START), sigma, sigma_next, key=KEY)


def test_a_denoiser_that_draws_at_random_is_one_function_within_a_step():
  """Random views of CLIP guidance and dropout are such; fresh numbers at each call would look like an error."""

  def denoiser(x, sigma, cond=None, *, key=None):
    return x / (1 + expand(sigma, x) ** 2) + 0.1 * randomness.normal(key, x.shape)

  x = 5.0 * jax.random.normal(jax.random.key(0), (3, 8))
  x0 = diffjax.sample(denoiser, samplers.Adaptive(), x, jnp.array([5.0, 0.1, 0.0]), key=jax.random.key(1))
  assert np.isfinite(x0).all()
