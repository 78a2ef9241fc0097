import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian, gaussian_marginal

import diffjax
from diffjax import denoisers, grids, guidance, samplers, schedules

VE = schedules.VE()
KEYS = jax.random.split(jax.random.key(0), 4)


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m_sde"])
def test_posterior_variance_is_euler_at_eta_one(name):
  # with the same noise; DPM-Solver++ SDE's first step, which is first order, is that step too
  other = {"euler": samplers.Euler(1.0), "dpmpp_2m_sde": samplers.DPMpp2M(1.0)}[name]
  x = 3 * jax.random.normal(jax.random.key(1), (4, 5))
  step = lambda sampler: sampler.step(Gaussian(), x, jnp.asarray(3.0), jnp.asarray(1.0), sampler.init(x), KEYS)[0]
  np.testing.assert_allclose(step(samplers.DDPM()), step(other), rtol=1e-5, atol=1e-6)


def test_larger_variance_is_exact_for_unit_gaussian_data(x64):
  """Ho et al. 2020, section 3.2: beta is right for x0 ~ N(0, 1), the posterior's for a single datum."""
  sigmas = np.array([30.0, 4.0, 1.0, 0.3])
  start = 1 + sigmas[0] ** 2
  larger = gaussian_marginal(lambda noise: samplers.DDPM(1.0, noise=noise), Gaussian(0.0, 1.0), sigmas, start)
  smaller = gaussian_marginal(lambda noise: samplers.DDPM(0.0, noise=noise), Gaussian(0.0, 1.0), sigmas, start)
  np.testing.assert_allclose(larger[1], 1 + 0.3**2, rtol=1e-12)
  assert smaller[1] < 0.9 * larger[1]


def learned(value):
  """A network of Gaussian data whose variance channels say `value`, in [-1, 1]."""
  network = lambda x, c_noise, cond, key: jnp.concatenate([Gaussian()(x, c_noise[0]), jnp.full_like(x, value)], -1)
  return denoisers.NetworkDenoiser(network, denoisers.X0(), schedules.SigmaAsTime())


@pytest.mark.parametrize(
  "wrap", [lambda d: d, lambda d: guidance.StaticThreshold(d, 50.0), lambda d: guidance.DynamicThreshold(d, 1.0, 50.0)]
)
@pytest.mark.parametrize(("value", "fraction"), [(-1.0, 0.0), (0.0, 0.5), (1.0, 1.0)])
def test_learned_variance_is_the_fraction_of_the_network(value, fraction, wrap):
  x, sigmas = 80 * jax.random.normal(jax.random.key(1), (4, 3, 3, 1)), grids.karras(6)
  draw = lambda sampler: diffjax.sample(wrap(learned(value)), sampler, x, sigmas, key=KEYS)
  np.testing.assert_allclose(draw(samplers.DDPM(learned=True)), draw(samplers.DDPM(fraction)), rtol=1e-5, atol=1e-5)


def test_learned_variance_under_classifier_free_guidance():
  x, sigmas = 80 * jax.random.normal(jax.random.key(1), (4, 3, 3, 1)), grids.karras(6)
  label = {"label": jnp.arange(4)}
  guided = guidance.ClassifierFree(learned(0.0), {"label": jnp.asarray(9)}, 2.0)
  draw = lambda sampler: diffjax.sample(guided, sampler, x, sigmas, key=KEYS, cond=label)
  np.testing.assert_allclose(draw(samplers.DDPM(learned=True)), draw(samplers.DDPM(0.5)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  ("denoiser", "message"),
  [
    (Gaussian(), "predicts no variance"),
    (guidance.StaticThreshold(Gaussian()), "predicts no variance"),
    (denoisers.NetworkDenoiser(lambda x, c_noise, cond, key: x, denoisers.X0(), VE), "predicts no variance"),
  ],
)
def test_a_variance_that_is_not_there_is_refused(denoiser, message):
  with pytest.raises(ValueError, match=message):
    diffjax.sample(denoiser, samplers.DDPM(learned=True), jnp.ones((4, 2, 2, 1)), grids.karras(3), key=KEYS)
