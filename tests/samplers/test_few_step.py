import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian

import diffjax
from diffjax import denoisers, from_config, grids, samplers, schedules

KEYS = jax.random.split(jax.random.key(0), 4)
STD = 0.5


def consistency_function(x, sigma, cond=None, *, key=None):
  """Where the ODE of data N(0.3, STD^2) ends: the ideal consistency model."""
  return 0.3 + STD / jnp.sqrt(sigma**2 + STD**2) * (x - 0.3)


@pytest.mark.parametrize("sampler", [samplers.Consistency(0.0), samplers.TCD(0.4, schedules.VP())])
@pytest.mark.parametrize("sigmas", [[80.0, 0.0], [80.0, 1.0, 0.0], [80.0, 5.0, 0.8, 0.1, 0.0]])
def test_an_ideal_model_draws_the_data_in_any_number_of_steps(sampler, sigmas, x64):
  """Exact for consistency sampling, whose pictures are data at every step; TCD then jumps along straight lines."""
  x = sigmas[0] * jax.random.normal(jax.random.key(1), (4, 50_000))
  x0 = np.asarray(diffjax.sample(consistency_function, sampler, x, jnp.asarray(sigmas), key=KEYS))
  tolerance = 4 * STD / np.sqrt(x0.size)
  assert abs(x0.mean() - 0.3) < tolerance
  if isinstance(sampler, samplers.Consistency):
    assert abs(x0.std() - STD) < tolerance


def test_consistency_adds_what_is_missing_above_sigma_min(x64):
  """Song et al. 2023, algorithm 1: x = x0 + sqrt(tau^2 - epsilon^2) z."""
  x, z = jnp.ones((4, 3)), jnp.full((4, 3), 0.7)
  sampler = samplers.Consistency(0.3, noise=lambda keys, shape: z)
  step = lambda sigma_next: sampler.step(Gaussian(), x, jnp.asarray(2.0), jnp.asarray(sigma_next), (), KEYS)[0]
  x0 = Gaussian()(x, jnp.asarray(2.0))
  np.testing.assert_allclose(step(0.5), x0 + 0.4 * z, rtol=1e-12)
  np.testing.assert_allclose(step(0.2), x0, rtol=1e-12)


def test_lcm_noises_fully():
  assert from_config.SAMPLERS["lcm"]().sigma_min == 0


def test_consistency_prediction_is_the_identity_at_its_end(x64):
  prediction, x = denoisers.Consistency(0.5, 0.002), jnp.ones((2, 3))
  x0 = prediction.to_x0(jnp.full((2, 3), 9.0), x, jnp.asarray(0.002), schedules.SigmaAsTime())
  np.testing.assert_allclose(x0, x, rtol=1e-12)
  skip, out = prediction.skip_out(jnp.asarray(1e6), schedules.SigmaAsTime())
  np.testing.assert_allclose([skip, out], [0, 0.5], atol=1e-6)  # far from the data the network speaks alone


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.7, 1.0])
def test_tcd_keeps_a_single_datum_s_marginal(gamma, x64):
  """x - x0 is then all noise, and each step must leave sigma_next^2 of it."""
  sigmas = jnp.asarray([20.0, 3.0, 0.5, 0.0])
  x = sigmas[0] * jax.random.normal(jax.random.key(1), (4, 50_000))
  _, path = diffjax.sample(Gaussian(0.0, 0.0), samplers.TCD(gamma), x, sigmas, key=KEYS, trajectory=True)
  np.testing.assert_allclose(path[1].std(), 3.0, rtol=0.01)
  np.testing.assert_allclose(path[2].std(), 0.5, rtol=0.01)


@pytest.mark.parametrize("schedule", [schedules.linear(), schedules.RectifiedFlow()])
def test_tcd_without_gamma_draws_no_noise(schedule):
  """At levels between two times of the schedule, too."""
  sampler = samplers.TCD(0.0, schedule, noise=lambda keys, shape: jnp.full(shape, 1e9))
  step = lambda method, *levels: method.step(Gaussian(), jnp.ones((4, 1)), *levels, (), KEYS)[0]
  for levels in itertools.pairwise(grids.karras(8)[:-1]):
    np.testing.assert_allclose(step(sampler, *levels), step(samplers.Euler(), *levels), rtol=1e-5)


def test_tcd_jumps_to_a_whole_time_of_a_discrete_schedule():
  """The floor of (1 - gamma) t, in float32 too."""
  schedule = schedules.linear()
  noiseless = lambda keys, shape: jnp.zeros(shape)
  for t, gamma, t_down in [(500, 0.3, 350), (999, 0.5, 499), (10, 0.1, 9), (700, 0.9, 70)]:
    sampler = samplers.TCD(gamma, schedule, noise=noiseless)
    x, _ = sampler.step(Gaussian(0.0, 0.0), jnp.ones((4, 1)), jnp.asarray(200.0), schedule.sigma(t), (), KEYS)
    np.testing.assert_allclose(x, schedule.sigma(t_down) / 200.0, rtol=1e-4)
