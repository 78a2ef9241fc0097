"""Guidance at the mean through `sample`; time travel's marginal."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian, Mixture

import diffjax
from diffjax import grids, guidance, samplers
from diffjax.arrays import expand
from diffjax.denoised import Denoised

KEYS = jax.random.split(jax.random.key(0), 3)
LABEL = {"label": jnp.array([1, 2, 2])}
SIGMAS = grids.karras(8, sigma_min=0.1, sigma_max=5.0)


def by_label(x, sigma, cond, *, key=None):
  return Mixture()(x, sigma) + expand(0.1 * cond["label"], x)


def start():
  return 5 * jax.random.normal(jax.random.key(1), (3, 4, 4, 1))


def test_cfgpp_through_sample():
  guided = guidance.ClassifierFree(by_label, {"label": 0}, 0.7)
  drawn = diffjax.sample(guided, samplers.MeanGuided(samplers.Euler()), start(), SIGMAS, key=KEYS, cond=LABEL)
  x = start()
  for sigma, sigma_next in itertools.pairwise(SIGMAS):
    null = by_label(x, sigma, {"label": jnp.zeros(3)})
    x0 = null + 0.7 * (by_label(x, sigma, LABEL) - null)
    x = x0 + sigma_next * (x - null) / sigma
  np.testing.assert_allclose(drawn, x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrap", [samplers.MeanGuided, samplers.Momentum])
def test_time_travel_goes_around_it(wrap):
  with pytest.raises(ValueError, match="put Recurrent around it"):
    wrap(samplers.Recurrent(samplers.Euler(), 2))


def test_a_threshold_acts_on_the_guided_x0():
  free = guidance.ClassifierFree(by_label, {"label": 0}, 5.0)
  clipped = guidance.StaticThreshold(free, 0.5)
  denoised, before = (guided.predict(start(), jnp.asarray(1.0), LABEL) for guided in (clipped, free))
  np.testing.assert_array_equal(denoised.unguided, before.unguided)
  np.testing.assert_array_equal(denoised.x0, jnp.clip(before.x0, -0.5, 0.5))


def test_a_denoiser_without_guidance_is_refused():
  for denoiser in (Gaussian(), guidance.StaticThreshold(Gaussian())):
    with pytest.raises(ValueError, match="not guided"):
      diffjax.sample(denoiser, samplers.MeanGuided(samplers.Euler()), start(), SIGMAS, key=KEYS)


class Learned:
  """Says a variance of its own for each label."""

  def predict(self, x, sigma, cond=None, *, key=None):
    return Denoised(by_label(x, sigma, cond), variance=expand(0.3 * cond["label"], jnp.ones_like(x)))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("guided", "wrap"),
  [
    (guidance.ClassifierFree(Learned(), {"label": 0}, 0.7), samplers.MeanGuided),
    (guidance.AdaptiveProjected(Learned(), {"label": 0}, 2.0), samplers.MeanGuided),
    (guidance.AdaptiveProjected(Learned(), {"label": 0}, 2.0), samplers.Momentum),
  ],
)
def test_a_learned_variance_reaches_the_sampler(guided, wrap):
  """DDPM draws as with the variance between the two that the model says for each label."""
  draw = lambda sampler: diffjax.sample(guided, sampler, start(), SIGMAS, key=KEYS, cond=LABEL)
  learned = draw(wrap(samplers.DDPM(learned=True)))
  fraction = jnp.array([0.3, 0.6, 0.6]).reshape(3, 1, 1, 1)
  np.testing.assert_allclose(learned, draw(wrap(samplers.DDPM(fraction))), rtol=1e-5, atol=1e-5)
  assert np.abs(learned - draw(wrap(samplers.DDPM()))).max() > 0.01


def test_projected_guidance_at_the_mean():
  guided = guidance.AdaptiveProjected(by_label, {"label": 0}, 3.0, radius=1.0)
  denoised = guided.predict(start(), jnp.asarray(1.0), LABEL)
  np.testing.assert_allclose(denoised.unguided, by_label(start(), 1.0, {"label": jnp.zeros(3)}), rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(denoised.x0, guided(start(), jnp.asarray(1.0), LABEL))


@pytest.mark.slow
def test_one_repeat_is_the_sampler_itself():
  draw = lambda sampler: diffjax.sample(Mixture(), sampler, start(), SIGMAS, key=KEYS)
  for sampler in (samplers.Euler(1.0), samplers.DPMpp2M()):
    np.testing.assert_array_equal(draw(samplers.Recurrent(sampler)), draw(sampler))
    outside = samplers.Recurrent(sampler, 3, (6.0, 9.0))
    np.testing.assert_allclose(draw(outside), draw(sampler), rtol=1e-5, atol=1e-6)
    assert not np.allclose(draw(samplers.Recurrent(sampler, 3)), draw(sampler), atol=1e-2)
  with pytest.raises(ValueError, match="a whole number of at least 1"):
    samplers.Recurrent(samplers.Euler(), 0)


def test_time_travel_keeps_the_marginal(x64):
  """Going back adds just the noise that is missing: on a single datum the variance stays exact."""
  sigmas, keys = np.array([30.0, 4.0, 1.0, 0.3]), jax.random.split(jax.random.key(0), 40_000)
  ddpm = samplers.Recurrent(samplers.DDPM(), 3)
  x = 0.3 + sigmas[0] * jax.random.normal(jax.random.key(5), (40_000, 1))
  for sigma, sigma_next in itertools.pairwise(sigmas):
    x, _ = ddpm.step(Gaussian(0.3, 0.0), x, jnp.asarray(sigma), jnp.asarray(sigma_next), (), keys)
  np.testing.assert_allclose([x.mean(), x.std()], [0.3, 0.3], rtol=0.02)
