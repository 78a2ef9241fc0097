import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian, Mixture

import diffjax
from diffjax import from_config, grids, samplers, schedules
from diffjax.from_config import construction

pytestmark = pytest.mark.slow

NOISE = 0.7


def restart_reference(x, sigmas, t_min, t_max, num_restarts, num_steps):
  """Xu et al. 2023, algorithm 1, with EDM's Heun, in the paper's terms; x at the last level above zero."""
  denoise = lambda x, t: np.asarray(Mixture()(jnp.asarray(x), jnp.asarray(t)))

  def heun(x, t, t_next):
    d = (x - denoise(x, t)) / t
    moved = x + (t_next - t) * d
    return x + (t_next - t) * (d + (moved - denoise(moved, t_next)) / t_next) / 2

  for t, t_next in itertools.pairwise(sigmas[:-1]):
    x = heun(x, t, t_next)
    if t_next <= t_min < t:
      for _ in range(num_restarts):
        x = x + np.sqrt(t_max**2 - t_next**2) * NOISE
        roots = np.linspace(t_max ** (1 / 7), t_next ** (1 / 7), num_steps + 1)
        for level, below in itertools.pairwise(roots**7):
          x = heun(x, level, below)
  return x


@pytest.mark.parametrize("settings", [(0.06, 0.3, 2, 2), (1.0, 5.0, 3, 1)])
def test_is_algorithm_1(settings, x64):
  sigmas = np.asarray(grids.karras(12))
  x = np.linspace(-2, 2, 5)[:, None] * sigmas[0]
  sampler = samplers.Restart(samplers.Heun(), *settings, noise=lambda keys, shape: jnp.full(shape, NOISE))
  _, path = diffjax.sample(Mixture(), sampler, jnp.asarray(x), sigmas, key=jax.random.key(0), trajectory=True)
  np.testing.assert_allclose(path[-2], restart_reference(x, sigmas, *settings), rtol=1e-9, atol=1e-9)


def test_intervals_nest_and_any_sampler_fits(x64):
  """The outer interval's way down passes the inner one's, which restarts there too."""
  calls = []
  denoiser = lambda x, sigma, cond=None, *, key=None: (calls.append(float(sigma)), x)[1]
  sampler = samplers.Restart(
    samplers.Restart(samplers.Euler(), 1.0, 2.0, num_restarts=3, num_steps=1), 0.5, 4.0, num_restarts=1, num_steps=5
  )
  x, sigmas = jnp.ones((1, 2)), np.array([8.0, 3.0, 0.4])
  with jax.disable_jit(), jax.default_prng_impl("unsafe_rbg"):
    keys = jax.random.split(jax.random.key(0), 1)
    for sigma, sigma_next in itertools.pairwise(sigmas):
      sampler.step(denoiser, x, jnp.asarray(sigma), jnp.asarray(sigma_next), (), keys)
  # two of the grid's steps, three restarts, then five steps down, three restarts within them
  assert len(calls) == 2 + 3 + 5 + 3


STD, SIGMAS, T_MAX = 0.5, np.geomspace(20.0, 0.1, 40), 1.0


def impulse(keys, shape):
  """One in the picture that the draw's key chooses: each draw has a picture of its own, which shows the response."""
  return jnp.zeros(shape).at[2 + jax.random.randint(keys[0], (), 0, shape[0] - 2)].set(1.0)


def variance_error(num_restarts, num_steps, excess=1.0):
  """How far the variance at the last level is from the data's, when the start's is `excess` times what it should be.

  All is affine: picture 0 carries the mean, picture 1 the response to the start, the others those to what is drawn.
  """
  sampler = samplers.Restart(samplers.Heun(), 0.11, T_MAX, num_restarts, num_steps, noise=impulse)
  x, sigmas = jnp.full((64, 1), 0.3).at[1].add(1.0), np.append(SIGMAS, 0.0)
  _, path = diffjax.sample(Gaussian(0.3, STD), sampler, x, sigmas, key=jax.random.key(0), trajectory=True)
  mean, response = path[-2, 0, 0], np.asarray(path[-2, 1:, 0] - path[-2, 0, 0])
  np.testing.assert_allclose(mean, 0.3, rtol=1e-9)
  assert np.count_nonzero(response[1:]) == num_restarts
  variance = response[0] ** 2 * excess * (STD**2 + SIGMAS[0] ** 2) + np.sum(response[1:] ** 2)
  return variance / (STD**2 + SIGMAS[-1] ** 2) - 1


def test_keeps_the_marginal_to_the_order_of_its_sampler(x64):
  fine = abs(variance_error(1, 40))
  errors = np.abs([variance_error(1, num) for num in (4, 8)])
  assert fine < 2e-3 and np.log2(errors[0] / errors[1]) > 1.7, (errors, fine)


def test_contracts_the_error_that_had_gathered(x64):
  """Each restart passes on the share (t_min^2 + std^2) / (t_max^2 + std^2) of a wrong variance, twice over in x."""
  gathered = 0.5
  share = (SIGMAS[-1] ** 2 + STD**2) / (T_MAX**2 + STD**2)
  for num_restarts in (1, 2):
    error = variance_error(num_restarts, 16, 1 + gathered)
    np.testing.assert_allclose(error, gathered * share**num_restarts, atol=5e-3)


def test_a_grid_that_ends_above_the_interval_never_restarts():
  sigmas, x = grids.karras(5, 0.1, 8.0), 8 * jax.random.normal(jax.random.key(0), (3, 4))
  draw = lambda sampler: diffjax.sample(Mixture(), sampler, x, sigmas, key=jax.random.key(1))
  np.testing.assert_array_equal(draw(samplers.Restart()), draw(samplers.Heun()))


def test_a_picture_does_not_depend_on_its_batch():
  sigmas, x = grids.karras(8), 80 * jax.random.normal(jax.random.key(0), (3, 4))
  keys = jax.random.split(jax.random.key(1), 3)
  draw = lambda x, keys: diffjax.sample(Mixture(), samplers.Restart(), x, sigmas, key=keys)
  np.testing.assert_allclose(draw(x, keys)[1:2], draw(x[1:2], keys[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("field", ["num_restarts", "num_steps"])
def test_refuses_fewer_than_one(field):
  with pytest.raises(ValueError, match=rf"Restart's {field} is 0, but must be a whole number of at least 1"):
    samplers.Restart(**{field: 0})


def test_is_built_in_the_schedules_scale():
  spec = {"name": "restart", "t_max": 0.5}
  built = construction.construct(from_config.SAMPLERS, "sampler", spec, scaling=schedules.flow)
  assert built.sampler.scaling is schedules.flow and (built.t_min, built.t_max) == (0.06, 0.5)
  with pytest.raises(ValueError, match=r"restart goes from t_min = 0\.06 up to t_max = 0\.01; give 0 < t_min < t_max"):
    construction.construct(from_config.SAMPLERS, "sampler", spec | {"t_max": 0.01})
