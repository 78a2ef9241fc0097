import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian

from diffjax import samplers

X, KEYS = jnp.asarray([[0.7], [-1.2]]), jax.random.split(jax.random.key(0), 2)


def stepped(sampler, sigma, sigma_next):
  return sampler.step(Gaussian(), X, jnp.asarray(sigma), jnp.asarray(sigma_next), sampler.init(X), KEYS)[0]


REACH_ZERO = {
  *("euler", "ddpm", "dpm_solver_1", "dpmpp_1s", "dpmpp_2s", "dpmpp_3s", "dpmpp_2s_ancestral", "lms", "ipndm"),
  *("consistency", "lcm", "tcd"),
}


@pytest.mark.parametrize("name", samplers.METHODS)
def test_a_step_to_zero_is_the_denoiser_or_refused(name):
  sampler = samplers.METHODS[name].make()
  if name not in REACH_ZERO:
    with pytest.raises(ValueError, match="has no step to sigma_next = 0; call the denoiser there"):
      stepped(sampler, 1.0, 0.0)
  else:
    np.testing.assert_allclose(stepped(sampler, 1.0, 0.0), Gaussian()(X, jnp.asarray(1.0)), rtol=1e-5)


def test_under_jit_a_step_to_zero_is_not_checked():
  step = jax.jit(lambda sigma_next: stepped(samplers.DPMpp2M(), 1.0, sigma_next))
  assert np.isnan(step(0.0)).all() and np.isfinite(step(0.1)).all()


JUMP = {"consistency", "lcm", "tcd"}
"""To the data or near it, and from there up to any level."""


@pytest.mark.parametrize("name", samplers.METHODS)
def test_a_step_up_is_the_odes_or_refused(name, x64):
  sampler = samplers.METHODS[name].make()
  if name == "adaptive" or (samplers.METHODS[name].stochastic == "yes" and name not in {"restart", *JUMP}):
    with pytest.raises(ValueError, match="steps from a higher sigma to a lower one; to go up, use a method without"):
      stepped(sampler, 0.5, 0.51)
  elif name in JUMP:
    assert np.isfinite(stepped(sampler, 0.5, 0.51)).all()
  else:
    np.testing.assert_allclose(stepped(sampler, 0.5, 0.51), Gaussian().flow(X, 0.5, 0.51), atol=2e-4)


@pytest.mark.parametrize(
  ("noisy", "quiet"),
  [
    (samplers.Euler(0.5), samplers.Euler(jnp.asarray(0.0))),
    (samplers.DPMpp2M(0.5), samplers.DPMpp2M(0.0)),
    (samplers.DPMpp3M(jnp.asarray(0.5)), samplers.DPMpp3M(0.0)),
    (samplers.DPMppSDE(0.5), samplers.DPMppSDE(0.0)),
    (samplers.SASolver(tau=0.5), samplers.SASolver(tau=0.0)),
    (samplers.ERSDE(), samplers.ERSDE(scale=jnp.ones_like)),
    (samplers.Ancestral(samplers.Heun()), samplers.Ancestral(samplers.Heun(), 0.0)),
  ],
)
def test_without_noise_they_go_up(noisy, quiet, x64):
  with pytest.raises(ValueError, match="steps from a higher sigma"):
    stepped(noisy, 0.5, 0.51)
  np.testing.assert_allclose(stepped(quiet, 0.5, 0.51), Gaussian().flow(X, 0.5, 0.51), atol=2e-4)
