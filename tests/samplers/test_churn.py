import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian, Mixture, gaussian_marginal

import diffjax
from diffjax import from_config, grids, samplers, schedules

NOISE, NUM_STEPS = 0.7, 12


def heun(slope, x, t, t_next):
  d = slope(x, t)
  return x + (t_next - t) * (d + slope(x + (t_next - t) * d, t_next)) / 2


def midpoint(slope, x, t, t_next):
  t_mid = np.sqrt(t * t_next)
  return x + (t_next - t) * slope(x + (t_mid - t) * slope(x, t), t_mid)


def edm_reference(step, x, sigmas, s_churn, s_tmin, s_tmax, s_noise):
  """Karras et al. 2022, algorithm 2, in the paper's own terms, with any step; the one to zero without churn."""
  denoise = lambda x, t: np.asarray(Mixture()(jnp.asarray(x), jnp.asarray(t)))
  for t, t_next in itertools.pairwise(sigmas[:-1]):
    gamma = min(s_churn / (len(sigmas) - 1), np.sqrt(2) - 1) if s_tmin <= t <= s_tmax else 0
    t_hat = t + gamma * t
    x_hat = x + np.sqrt(t_hat**2 - t**2) * s_noise * NOISE
    x = step(lambda x, t: (x - denoise(x, t)) / t, x_hat, t_hat, t_next)
  return denoise(x, sigmas[-2])


@pytest.mark.parametrize("churn", [(0, 0, np.inf, 1.0), (10, 0.05, 50, 1.007), (100, 0, np.inf, 1.0)])
@pytest.mark.parametrize(
  ("sampler", "step"), [(samplers.Heun(), heun), (samplers.DPMSolver(2), midpoint)], ids=["heun", "dpm2"]
)
def test_is_edms_algorithm_2(sampler, step, churn, x64):
  sigmas = np.asarray(grids.karras(NUM_STEPS))
  x = np.linspace(-2, 2, 9)[:, None] * sigmas[0]
  churned = samplers.Churn(sampler, *churn, num_steps=NUM_STEPS, noise=lambda keys, shape: jnp.full(shape, NOISE))
  drawn = diffjax.sample(Mixture(), churned, jnp.asarray(x), sigmas, key=jax.random.key(0))
  np.testing.assert_allclose(drawn, edm_reference(step, x, sigmas, *churn), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["heun", "dpm2"])
def test_by_name_it_is_there_only_where_asked_for(name):
  make = from_config.SAMPLERS[name]
  alone = make()
  assert alone == make(0.0, num_steps=18) == {"heun": samplers.Heun(), "dpm2": samplers.DPMSolver(2)}[name]
  assert make(10.0, num_steps=18) == samplers.Churn(alone, 10.0, num_steps=18)
  with pytest.raises(ValueError, match="num_steps is missing; pass it with s_churn"):
    make(s_churn=10.0)
  assert from_config.SAMPLERS["heun"](1.0, num_steps=9, scaling=schedules.flow).sampler.scaling is schedules.flow


def test_the_gradient_by_no_churn_is_finite():
  def drawn(s_churn):
    sampler = samplers.Churn(samplers.Heun(), s_churn, num_steps=5)
    return diffjax.sample(Mixture(), sampler, jnp.ones((2, 3)), grids.karras(5), key=jax.random.key(0))

  assert np.isfinite(jax.jit(jax.grad(lambda s_churn: drawn(s_churn).sum()))(0.0))


def test_keeps_the_marginal(x64):
  std, errors = 0.5, []
  for num_steps in (26, 51):
    sigmas = np.geomspace(20.0, 0.1, num_steps)
    make = lambda noise, num=num_steps: samplers.Churn(samplers.Heun(), 10.0, num_steps=num, noise=noise)
    mean, variance = gaussian_marginal(make, Gaussian(0.3, std), sigmas, std**2 + sigmas[0] ** 2)
    np.testing.assert_allclose(mean, 0.3, rtol=1e-9)
    errors.append(abs(variance / (std**2 + sigmas[-1] ** 2) - 1))
  assert errors[1] < 0.015 and errors[0] / errors[1] > 3.5, errors


WRAPPERS = {
  "churn": lambda sampler: samplers.Churn(sampler, 1.0, num_steps=8),
  "ancestral": samplers.Ancestral,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_samplers_with_memory_are_refused(wrapper):
  for inside in (samplers.DPMpp2M(), samplers.LMS(), samplers.Momentum(samplers.Heun()), samplers.Adaptive()):
    name = type(inside).__name__
    with pytest.raises(ValueError, match=f"needs a sampler without state, but {name} has state"):
      WRAPPERS[wrapper](inside).init(jnp.ones((2, 1)))
  with pytest.raises(ValueError, match="sampler is the class Heun"):
    WRAPPERS[wrapper](samplers.Heun)
  assert WRAPPERS[wrapper](samplers.PredictorCorrector()).init(jnp.ones((2, 1))) == ()
