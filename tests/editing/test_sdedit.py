import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian

import diffjax
from diffjax import editing, grids, samplers

GRID = grids.karras(10)


@pytest.mark.parametrize(("strength", "left"), [(1.0, 10), (0.5, 5), (0.25, 3), (0.24, 2), (1e-6, 1)])
def test_strength_is_the_share_of_levels(strength, left):
  np.testing.assert_array_equal(editing.shorten(GRID, strength), GRID[10 - left :])


@pytest.mark.parametrize("strength", [0, -0.1, 1.01, float("nan")])
def test_strength_out_of_range(strength):
  with pytest.raises(ValueError, match=r"strength is .*, but must be above 0"):
    editing.shorten(GRID, strength)


def test_exact_moments(x64):
  """Noised by s, a picture at distance d from the mean comes back at d * std / sqrt(std^2 + s^2) with the flow."""
  oracle, sigmas = Gaussian(0.3, 0.5), grids.exponential(100, 1e-4, 4.0)
  start = float(editing.shorten(sigmas, 0.8)[0])
  x0 = jnp.full((20000, 1), 1.3)
  drawn = editing.img2img(oracle, samplers.Heun(), x0, sigmas, strength=0.8, key=jax.random.key(0))
  gain = 0.5 / np.hypot(0.5, start)
  np.testing.assert_allclose(drawn.mean(), 0.3 + gain, atol=4 * gain * start / 20000**0.5)
  np.testing.assert_allclose(drawn.std(), gain * start, rtol=4 / 40000**0.5)


def test_weak_strength_keeps_the_picture_and_keys_are_each_samples_own():
  x0 = jax.random.uniform(jax.random.key(1), (3, 4, 4, 1))
  edit = lambda x0, strength: editing.img2img(
    Gaussian(), samplers.Euler(1.0), x0, GRID, strength=strength, key=jax.random.key(0)
  )
  assert jnp.abs(edit(x0, 0.1) - x0).max() < 0.02 < jnp.abs(edit(x0, 0.8) - x0).max()
  np.testing.assert_allclose(edit(x0, 0.8)[:2], edit(x0[:2], 0.8), atol=1e-6)


def test_jit_and_gradient():
  edit = jax.jit(editing.img2img, static_argnames="strength")
  x0 = jnp.full((2, 3), 0.4)
  oracle = Gaussian(0.3, 0.5)
  gradient = jax.grad(lambda x0: edit(oracle, samplers.Euler(), x0, GRID, strength=0.5, key=jax.random.key(0)).sum())(
    x0
  )
  sigmas = editing.shorten(GRID, 0.5)
  flow = lambda x: diffjax.sample(oracle, samplers.Euler(), x, sigmas, key=jax.random.key(0)).sum()
  np.testing.assert_allclose(gradient, jax.grad(flow)(x0), rtol=1e-5)
