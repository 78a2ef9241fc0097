"""Why Runge-Kutta steps in t = sigma / (1 + sigma): the same weights in other coordinates err more."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Mixture

import diffjax
from diffjax import grids, samplers

HIGH, LOW, NUM_STEPS = 80.0, 0.002, 11
START = np.linspace(-2.5, 2.5, 9)[:, None] * HIGH
ORACLE = Mixture()

# name: sigma -> u, u -> sigma, factor of sigma in y = factor * x, (x0, x, sigma) -> dy/du
COORDINATES = {
  "sigma": (lambda s: s, lambda u: u, lambda s: 1.0, lambda x0, x, s: (x - x0) / s),
  "log sigma": (np.log, np.exp, lambda s: 1.0, lambda x0, x, s: x - x0),
  "1 / sigma": (lambda s: 1 / s, lambda u: 1 / u, lambda s: 1 / s, lambda x0, x, s: x0),
  "t": (lambda s: s / (1 + s), lambda u: u / (1 - u), lambda s: 1 / (1 + s), lambda x0, x, s: (x - x0) / s - x0),
}


def textbook(name, sigmas):
  """Kutta's method in a coordinate u, of y(u) = factor * x; the denoiser at the end."""
  to_u, to_sigma, factor, slope = COORDINATES[name]
  denoise = jax.jit(ORACLE)

  def f(y, u):
    sigma = to_sigma(u)
    x = y / factor(sigma)
    return slope(np.asarray(denoise(x, sigma)), x, sigma)

  x = START
  for u, u_next in itertools.pairwise(to_u(sigmas[:-1])):
    y, h = factor(to_sigma(u)) * x, u_next - u
    k1 = f(y, u)
    k2 = f(y + h / 2 * k1, u + h / 2)
    k3 = f(y + h / 2 * k2, u + h / 2)
    k4 = f(y + h * k3, u_next)
    x = (y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)) / factor(to_sigma(u_next))
  return np.asarray(denoise(x, sigmas[-2]))


def test_is_kuttas_method_in_flow_time(x64):
  sigmas = np.asarray(grids.karras(NUM_STEPS, LOW, HIGH), np.float64)
  drawn = diffjax.sample(ORACLE, samplers.RK4(), jnp.asarray(START), sigmas, key=jax.random.key(0))
  np.testing.assert_allclose(drawn, textbook("t", sigmas), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in COORDINATES if name != "t"])
def test_errs_less_than_in_other_coordinates(name, x64):
  sigmas = np.asarray(grids.karras(NUM_STEPS, LOW, HIGH), np.float64)
  exact = ORACLE(jnp.asarray(ORACLE.flow(START, HIGH, LOW)), jnp.asarray(LOW))
  error = lambda name: np.abs(textbook(name, sigmas) - exact).max()
  assert error(name) > 5 * error("t"), (error(name), error("t"))
