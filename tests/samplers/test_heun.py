import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian, Mixture, gaussian_marginal

import diffjax
from diffjax import grids, samplers, schedules

NOISE = 0.7


def edm_reference(x, sigmas, s_churn, s_tmin, s_tmax, s_noise):
  """Karras et al. 2022, algorithm 2, in the paper's own terms; the step to zero without churn."""
  num_steps = len(sigmas) - 1
  denoise = lambda x, t: np.asarray(Mixture()(jnp.asarray(x), jnp.asarray(t)))
  for i, (t, t_next) in enumerate(itertools.pairwise(sigmas)):
    churned = s_tmin <= t <= s_tmax and i < num_steps - 1
    gamma = min(s_churn / num_steps, np.sqrt(2) - 1) if churned else 0
    t_hat = t + gamma * t
    x_hat = x + np.sqrt(t_hat**2 - t**2) * s_noise * NOISE
    d = (x_hat - denoise(x_hat, t_hat)) / t_hat
    x = x_hat + (t_next - t_hat) * d
    if t_next > 0:
      x = x_hat + (t_next - t_hat) * (d + (x - denoise(x, t_next)) / t_next) / 2
  return x


@pytest.mark.parametrize("churn", [(0, 0, np.inf, 1.0), (10, 0.05, 50, 1.007), (100, 0, np.inf, 1.0)])
def test_is_edms_algorithm_2(churn, x64):
  sigmas = np.asarray(grids.karras(12))
  x = np.linspace(-2, 2, 9)[:, None] * sigmas[0]
  sampler = samplers.Heun(*churn, num_steps=12, noise=lambda keys, shape: jnp.full(shape, NOISE))
  drawn = diffjax.sample(Mixture(), sampler, jnp.asarray(x), sigmas, key=jax.random.key(0))
  np.testing.assert_allclose(drawn, edm_reference(x, sigmas, *churn), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", [samplers.Heun, samplers.DPM2])
def test_churn_asks_for_the_number_of_steps(method):
  with pytest.raises(ValueError, match="pass num_steps with it"):
    method(s_churn=10.0)
  with pytest.raises(ValueError, match="pass num_steps with it"):
    method().replace(s_churn=10.0)
  assert method(s_churn=10.0, num_steps=18).num_steps == 18


def test_the_gradient_by_no_churn_is_finite():
  def drawn(s_churn):
    return diffjax.sample(
      Mixture(), samplers.Heun(s_churn, num_steps=5), jnp.ones((2, 3)), grids.karras(5), key=jax.random.key(0)
    )

  assert np.isfinite(jax.grad(lambda s_churn: drawn(s_churn).sum())(0.0))


def test_with_a_flows_scaling_is_heun_in_flow_time(x64):
  """dx_t / dt = noise - x0 for x_t = (1 - t) x0 + t noise, by the textbook's trapezoidal rule."""
  t, t_next, x_t = 0.95, 0.8, np.linspace(-2, 2, 9)[:, None]
  slope = lambda x_t, t: (x_t - np.asarray(Mixture()(jnp.asarray(x_t / (1 - t)), jnp.asarray(t / (1 - t))))) / t
  euler = x_t + (t_next - t) * slope(x_t, t)
  expected = x_t + (t_next - t) * (slope(x_t, t) + slope(euler, t_next)) / 2
  sigma, sigma_next = jnp.asarray(t / (1 - t)), jnp.asarray(t_next / (1 - t_next))
  keys = jax.random.split(jax.random.key(0), 9)
  x, _ = samplers.Heun(scaling=schedules.flow).step(Mixture(), jnp.asarray(x_t / (1 - t)), sigma, sigma_next, (), keys)
  np.testing.assert_allclose(x * (1 - t_next), expected, rtol=1e-9, atol=1e-12)


def test_churn_keeps_the_marginal(x64):
  std, errors = 0.5, []
  for num_steps in (26, 51, 101):
    sigmas = np.geomspace(20.0, 0.1, num_steps)
    make = lambda noise, num_steps=num_steps: samplers.Heun(10.0, num_steps=num_steps, noise=noise)
    mean, variance = gaussian_marginal(make, Gaussian(0.3, std), sigmas, std**2 + sigmas[0] ** 2)
    np.testing.assert_allclose(mean, 0.3, rtol=1e-9)
    errors.append(abs(variance / (std**2 + sigmas[-1] ** 2) - 1))
  assert errors[-1] < 0.005
  assert np.all(np.divide(errors[:-1], errors[1:]) > 3.5), errors


def test_calls_the_network_twice_a_step():
  calls = []
  denoiser = lambda x, sigma, cond=None, *, key=None: (calls.append(float(sigma)), x)[1]
  x = jnp.ones((1, 2))
  samplers.Heun().step(denoiser, x, jnp.asarray(2.0), jnp.asarray(1.0), (), jax.random.split(jax.random.key(0), 1))
  assert calls == [2.0, 1.0]
