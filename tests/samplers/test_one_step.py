"""One-step samplers: orders of convergence, network calls, transformations, mistakes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian, Mixture

import diffjax
from diffjax import from_config, grids, samplers
from diffjax.from_config import construction

pytestmark = pytest.mark.slow

HIGH, LOW = 20.0, 0.05
START = np.linspace(-2.5, 2.5, 5)[:, None] * HIGH
ORDERS = {
  "dpm_solver_1": (samplers.DPMSolver(1), 1),
  "dpm_solver_2": (samplers.DPMSolver(2), 2),
  "dpm_solver_3": (samplers.DPMSolver(3), 3),
  "dpmpp_1s": (samplers.DPMppS(1), 1),
  "dpmpp_2s": (samplers.DPMppS(2), 2),
  "dpmpp_3s": (samplers.DPMppS(3), 3),
  "rk4": (samplers.RK4(), 4),
}
CALLS = {name: order for name, (_, order) in ORDERS.items()}


@functools.cache
def exact(oracle):
  return oracle(jnp.asarray(oracle.flow(START, HIGH, LOW)), jnp.asarray(LOW))


def solve_error(sampler, oracle, num_steps):
  sigmas = grids.exponential(num_steps, LOW, HIGH)
  drawn = diffjax.sample(oracle, sampler, jnp.asarray(START), sigmas, key=jax.random.key(0))
  return float(jnp.abs(drawn - exact(oracle)).max())


@pytest.mark.parametrize("oracle", [Gaussian(), Mixture()], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence(name, oracle, x64):
  sampler, order = ORDERS[name]
  errors = [solve_error(sampler, oracle, num) for num in (81, 161, 321)]
  rates = np.log2(np.divide(errors[:-1], errors[1:]))
  assert np.all(np.abs(rates - order) < 0.25), (errors, rates)


@pytest.mark.parametrize("name", ORDERS)
def test_calls_and_levels(name):
  levels = []
  denoiser = lambda x, sigma, cond=None, *, key=None: (levels.append(float(sigma)), x / (1 + sigma**2))[1]
  keys = jax.random.split(jax.random.key(0), 1)
  ORDERS[name][0].step(denoiser, jnp.ones((1, 2)), jnp.asarray(8.0), jnp.asarray(1.0), (), keys)
  t = np.array([8 / 9, (8 / 9 + 1 / 2) / 2, 1 / 2])[[0, 1, 1, 2]]
  expected = t / (1 - t) if name == "rk4" else 8.0 ** (1 - np.arange(CALLS[name]) / CALLS[name])
  np.testing.assert_allclose(levels, expected, rtol=1e-5)


@pytest.mark.parametrize(
  ("one", "other"),
  [
    (samplers.DPMSolver(1), samplers.Euler()),
    (samplers.DPMppS(1), samplers.Euler()),
  ],
)
def test_are_one_method_by_two_names(one, other, x64):
  draw = lambda sampler: diffjax.sample(
    Mixture(), sampler, jnp.asarray(START), grids.exponential(7, LOW, HIGH), key=jax.random.key(0)
  )
  np.testing.assert_allclose(draw(one), draw(other), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ORDERS)
def test_float32_keeps_its_digits_from_a_very_large_sigma(name):
  keys = jax.random.split(jax.random.key(0), 5)
  noise = np.linspace(-2.5, 2.5, 5)[:, None]

  def step(dtype, sigma_next):
    x, levels = jnp.asarray(noise * 1e5, dtype), jnp.asarray([1e5, sigma_next], dtype)
    return np.asarray(ORDERS[name][0].step(Gaussian(), x, *levels, (), keys)[0], np.float64)

  for sigma_next in (2e4, 1.0):
    with jax.enable_x64(True):
      expected = step(jnp.float64, sigma_next)
    np.testing.assert_allclose(step(jnp.float32, sigma_next), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", [*ORDERS, "restart", "adaptive"])
def test_under_jit_vmap_and_grad(name, x64):
  sampler = construction.construct(from_config.SAMPLERS, "sampler", {"name": name})
  sigmas = grids.karras(6, 0.05, HIGH)
  draw = lambda x: diffjax.sample(Mixture(), sampler, x, sigmas, key=jax.random.key(0))
  jitted, x = jax.jit(draw), jnp.asarray(START)
  drawn = jitted(x)
  assert drawn.dtype == jnp.float64
  with_slope = jax.value_and_grad(lambda x: (draw(x).sum(), draw(x)), has_aux=True)
  (_, mapped), slope = jax.jit(jax.vmap(with_slope))(jnp.stack([x, x[::-1]]))
  np.testing.assert_allclose(mapped, jnp.stack([drawn, jitted(x[::-1])]), rtol=1e-9, atol=1e-12)
  numeric = (jitted(x + 1e-4) - jitted(x - 1e-4)) / 2e-4
  # an adaptive step's length moves with x too, and its result by less than the tolerance
  np.testing.assert_allclose(slope[0], numeric, rtol=1e-3 if name == "adaptive" else 1e-5, atol=1e-8)


@pytest.mark.parametrize("make", [samplers.DPMSolver, samplers.DPMppS])
@pytest.mark.parametrize("order", [0, 4])
def test_orders_that_do_not_exist_are_refused(make, order):
  with pytest.raises(ValueError, match=rf"{make.__name__} has no order {order}; choose one of 1 to 3"):
    make(order)


def test_eulers_step_up_is_that_of_the_ode(x64):
  x, levels = jnp.asarray([[0.7], [-1.2]]), (jnp.asarray(0.5), jnp.asarray(2.0))
  denoiser = lambda x, sigma, *, key=None: x / (1 + sigma**2)
  keys = jax.random.split(jax.random.key(0), 2)
  for eta in (0.0, jnp.asarray(0.0)):
    up, _ = samplers.Euler(eta).step(denoiser, x, *levels, (), keys)
    np.testing.assert_allclose(up, x + 1.5 * (x - x / 1.25) / 0.5, rtol=1e-12)
