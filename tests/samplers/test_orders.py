"""What every sampler is held to: its order of convergence, and the mean and variance it keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian, Mixture, gaussian_marginal

import diffjax
from diffjax import grids, samplers, schedules

HIGH, LOW = 20.0, 0.05
ORDERS = {
  "euler": (samplers.Euler(), 1),
  "heun": (samplers.Heun(), 2),
  "heun flow": (samplers.Heun(scaling=schedules.flow), 2),
  "heun vp": (samplers.Heun(scaling=schedules.variance_preserving), 2),
  "dpmpp_2m": (samplers.DPMpp2M(), 2),
}
START = np.linspace(-2.5, 2.5, 5)[:, None] * HIGH


def solve_error(sampler, oracle, num_steps):
  """Largest distance from the exact flow, whose last step to zero is the denoiser too."""
  sigmas = grids.exponential(num_steps, LOW, HIGH)
  drawn = diffjax.sample(oracle, sampler, jnp.asarray(START), sigmas, key=jax.random.key(0))
  exact = oracle(jnp.asarray(oracle.flow(START, HIGH, LOW)), jnp.asarray(LOW))
  return float(jnp.abs(drawn - exact).max())


@pytest.mark.parametrize("oracle", [Gaussian(), Mixture()], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence(name, oracle, x64):
  sampler, order = ORDERS[name]
  errors = [solve_error(sampler, oracle, num) for num in (41, 81, 161)]
  rates = np.log2(np.divide(errors[:-1], errors[1:]))
  assert np.all(np.abs(rates - order) < 0.25), (errors, rates)


STOCHASTIC = {
  "euler eta 0.5": lambda noise: samplers.Euler(0.5, noise=noise),
  "euler eta 1": lambda noise: samplers.Euler(1.0, noise=noise),
  "ddpm": lambda noise: samplers.DDPM(noise=noise),
  "ddpm larger": lambda noise: samplers.DDPM(1.0, noise=noise),
  "dpmpp_2m_sde": lambda noise: samplers.DPMpp2M(1.0, noise=noise),
  "dpmpp_2m eta 0.5": lambda noise: samplers.DPMpp2M(0.5, noise=noise),
}


@pytest.mark.parametrize("name", [name for name in STOCHASTIC if name != "ddpm larger"])
def test_a_single_datum_keeps_its_marginal_exactly(name, x64):
  """Data at one point: x - x0 is all noise, so each step must leave sigma_next^2 exactly, however long it is."""
  sigmas = np.array([30.0, 4.0, 1.0, 0.3])
  point = Gaussian(0.3, 0.0)
  mean, variance = gaussian_marginal(STOCHASTIC[name], point, sigmas, sigmas[0] ** 2)
  np.testing.assert_allclose([mean, variance], [0.3, 0.3**2], rtol=1e-12)


def variance_error(name, num_steps, std=0.5):
  sigmas = np.geomspace(20.0, 0.1, num_steps)
  mean, variance = gaussian_marginal(STOCHASTIC[name], Gaussian(0.3, std), sigmas, std**2 + sigmas[0] ** 2)
  np.testing.assert_allclose(mean, 0.3, rtol=1e-9)
  return abs(variance / (std**2 + sigmas[-1] ** 2) - 1)


@pytest.mark.parametrize(("name", "order"), [("euler eta 1", 1), ("ddpm", 1), ("ddpm larger", 1), ("dpmpp_2m_sde", 2)])
def test_variance_converges_to_that_of_the_data(name, order, x64):
  errors = [variance_error(name, num) for num in (26, 51, 101)]
  rates = np.log2(np.divide(errors[:-1], errors[1:]))
  assert errors[-1] < 0.1
  assert np.all(np.abs(rates - order) < 0.35), (errors, rates)
