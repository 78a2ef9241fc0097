"""Averages against their closed form."""

import jax.numpy as jnp
import numpy as np

from diffjax.training import ema


def test_closed_form_with_warm_up():
  values = np.random.default_rng(0).normal(size=30)
  averages = ema.init({"w": jnp.zeros(())}, 2)
  for step, value in enumerate(values):
    averages = ema.update(averages, {"w": jnp.float32(value)}, (0.5, 0.9999), jnp.int32(step))
  for average, decay in zip(averages, (0.5, 0.9999)):
    decays = np.minimum(decay, (1 + np.arange(30)) / (10 + np.arange(30)))
    weights = (1 - decays) * np.append(np.cumprod(decays[::-1])[::-1][1:], 1)
    np.testing.assert_allclose(average["w"], np.sum(weights * values), rtol=1e-5)
  assert decays[0] == 0.1 and decays[-1] < 0.9999  # the second average never left its warm-up


def test_float32_whatever_the_parameters_are():
  params = {"w": jnp.ones(3, jnp.bfloat16)}
  (average,) = ema.init(params, 1)
  for step in range(1000, 1200):
    (average,) = ema.update((average,), {"w": jnp.full(3, 2, jnp.bfloat16)}, (0.999,), jnp.int32(step))
  assert average["w"].dtype == jnp.float32
  decays = np.minimum(0.999, (1 + np.arange(1000, 1200)) / (10 + np.arange(1000, 1200)))
  np.testing.assert_allclose(average["w"], 2 - np.prod(decays), rtol=1e-5)
