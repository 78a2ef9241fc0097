import jax
import jax.numpy as jnp
import numpy as np
from oracles import Mixture

from diffjax import samplers, schedules


def test_with_a_flows_scaling_is_heun_in_flow_time(x64):
  """dx_t / dt = noise - x0 for x_t = (1 - t) x0 + t noise, by the textbook's trapezoidal rule."""
  t, t_next, x_t = 0.95, 0.8, np.linspace(-2, 2, 9)[:, None]
  slope = lambda x_t, t: (x_t - np.asarray(Mixture()(jnp.asarray(x_t / (1 - t)), jnp.asarray(t / (1 - t))))) / t
  euler = x_t + (t_next - t) * slope(x_t, t)
  expected = x_t + (t_next - t) * (slope(x_t, t) + slope(euler, t_next)) / 2
  sigma, sigma_next = jnp.asarray(t / (1 - t)), jnp.asarray(t_next / (1 - t_next))
  keys = jax.random.split(jax.random.key(0), 9)
  x, _ = samplers.Heun(schedules.flow).step(Mixture(), jnp.asarray(x_t / (1 - t)), sigma, sigma_next, (), keys)
  np.testing.assert_allclose(x * (1 - t_next), expected, rtol=1e-9, atol=1e-12)


def test_calls_the_network_twice_a_step():
  calls = []
  denoiser = lambda x, sigma, cond=None, *, key=None: (calls.append(float(sigma)), x)[1]
  x = jnp.ones((1, 2))
  samplers.Heun().step(denoiser, x, jnp.asarray(2.0), jnp.asarray(1.0), (), jax.random.split(jax.random.key(0), 1))
  assert calls == [2.0, 1.0]
