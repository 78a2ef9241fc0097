import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian

import diffjax
from diffjax import grids, samplers

KEYS = jax.random.split(jax.random.key(0), 4)
SNR = 0.3
CORRECTOR = samplers.PredictorCorrector()


def test_a_correction_is_the_papers(x64):
  """Song et al. 2020, algorithm 4, in its own terms: score, epsilon, and norms of one picture at a time."""
  rng = np.random.default_rng(0)
  x, z, sigma = rng.normal(size=(4, 3, 2)), rng.normal(size=(4, 3, 2)), 0.8
  noise = lambda keys, shape: jnp.asarray(z)
  sampler = samplers.PredictorCorrector(samplers.Euler(), SNR, added_dims=0, noise=noise)
  stays = lambda x, level, cond=None, *, key=None: Gaussian()(x, level)
  predicted, _ = samplers.Euler().step(stays, jnp.asarray(x), jnp.asarray(2.0), jnp.asarray(sigma), (), KEYS)
  corrected, _ = sampler.step(stays, jnp.asarray(x), jnp.asarray(2.0), jnp.asarray(sigma), (), KEYS)
  for before, after, z_one in zip(np.asarray(predicted), np.asarray(corrected), z):
    score = (np.asarray(Gaussian()(before[None], jnp.asarray(sigma)))[0] - before) / sigma**2
    epsilon = 2 * (SNR * np.linalg.norm(z_one) / np.linalg.norm(score)) ** 2
    np.testing.assert_allclose(after, before + epsilon * score + np.sqrt(2 * epsilon) * z_one, rtol=1e-10)


@pytest.mark.slow
def test_corrections_mend_a_bad_predictor(x64):
  """Few Euler steps leave too little variance; Langevin steps at each level bring it towards the data's."""
  std, sigmas = 0.5, grids.exponential(6, 0.05, 20.0)
  x = jnp.hypot(sigmas[0], std) * jax.random.normal(jax.random.key(1), (4, 50_000))
  draw = lambda sampler: diffjax.sample(Gaussian(0.3, std), sampler, x, sigmas, key=KEYS, trajectory=True)[1][-2]
  target = std**2 + sigmas[-2] ** 2
  errors = [
    abs(float(draw(samplers.PredictorCorrector(samplers.Euler(), 0.2, num)).var() / target) - 1) for num in (0, 2, 20)
  ]
  assert errors[0] > 2 * errors[1] > 4 * errors[2], errors


@pytest.mark.slow
def test_corrections_leave_as_much_noise_too_much_as_theory_says(x64):
  """Data at one point, many dimensions: v = (1 - e)^2 v + 2 e with e = 2 snr^2 / v, so v = 1 + snr^2."""
  corrector = samplers.PredictorCorrector(samplers.Euler(), SNR, num_corrections=4)
  keys, sigma = jax.random.split(jax.random.key(0), 40), jnp.asarray(0.5)
  x = 0.3 + sigma * jax.random.normal(jax.random.key(1), (40, 4096))
  step = lambda x, i: corrector.step(
    Gaussian(0.3, 0.0), x, sigma, sigma, (), jax.vmap(jax.random.fold_in, (0, None))(keys, i)
  )
  x = jax.jit(lambda x: jax.lax.scan(lambda x, i: (step(x, i)[0], None), x, jnp.arange(5))[0])(x)
  np.testing.assert_allclose((x - 0.3).var() / sigma**2, 1 + SNR**2, rtol=0.015)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [1, 2, 3, 5, 10, 100])
def test_the_spread_is_the_datas_in_every_dimension(dims):
  sigmas, num = grids.karras(100, 0.01, 20.0), 8000 // dims
  x = sigmas[0] * jax.random.normal(jax.random.key(1), (num, dims))
  draw = jax.jit(lambda x: diffjax.sample(Gaussian(0.0, 1.0), CORRECTOR, x, sigmas, key=jax.random.key(2)))
  np.testing.assert_allclose(draw(x).std(), 1, rtol=0.05)


def test_no_step_from_a_score_of_zero_is_infinite():
  still = lambda x, sigma, cond=None, *, key=None: x
  levels = jnp.asarray(2.0), jnp.asarray(1.0)
  x, _ = samplers.PredictorCorrector().step(still, jnp.ones((4, 2)), *levels, (), KEYS)
  assert np.abs(x).max() < 10


def test_a_batch_mate_changes_nothing():
  sampler, sigmas = samplers.PredictorCorrector(num_corrections=3), grids.karras(6, 0.02, 20.0)
  x = sigmas[0] * jax.random.normal(jax.random.key(1), (4, 7))
  draw = lambda x: diffjax.sample(Gaussian(), sampler, x, sigmas, key=KEYS)
  changed = draw(x.at[0].multiply(100.0))
  np.testing.assert_array_equal(draw(x)[1:], changed[1:])


@pytest.mark.parametrize("num_corrections", [0, 1, 3])
def test_network_calls(num_corrections):
  calls = []
  denoiser = lambda x, sigma, cond=None, *, key=None: (calls.append(float(sigma)), x / 2)[1]
  sampler = samplers.PredictorCorrector(num_corrections=num_corrections)
  sampler.step(denoiser, jnp.ones((4, 2)), jnp.asarray(2.0), jnp.asarray(1.0), (), KEYS)
  assert calls == [2.0] + [1.0] * num_corrections
