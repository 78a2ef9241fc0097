import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian, Mixture

import diffjax
from diffjax import editing, grids, samplers, schedules

SAMPLE, INVERT = jax.jit(diffjax.sample), jax.jit(editing.invert, static_argnames="iterations")
X0 = np.array([-1.1, -0.4, 0.15, 0.5, 0.9])[:, None]
KEY = jax.random.key(0)


@pytest.mark.parametrize("sampler", [samplers.Euler(), samplers.Heun()], ids=["euler", "heun"])
@pytest.mark.parametrize("oracle", [Gaussian(), Mixture()], ids=["gaussian", "mixture"])
def test_round_trip(oracle, sampler, x64):
  sigmas = grids.karras(20)
  x, residual = INVERT(oracle, sampler, jnp.asarray(X0), sigmas, iterations=40)
  assert residual.shape == (5,) and residual.max() < 1e-8
  back = SAMPLE(oracle, sampler, x, sigmas, key=KEY)
  np.testing.assert_allclose(back, X0, atol=1e-6)


@pytest.mark.parametrize("steps", [5, 50])
def test_round_trip_in_float32_with_the_usual_iterations(steps):
  sigmas = grids.karras(steps, 0.02, 20.0)
  x, residual = INVERT(Gaussian(), samplers.Euler(), jnp.asarray(X0, jnp.float32), sigmas)
  back = SAMPLE(Gaussian(), samplers.Euler(), x, sigmas, key=KEY)
  np.testing.assert_allclose(back, X0, atol=1e-4)
  assert residual.max() < 1e-4


def test_finds_the_very_noise(x64):
  sigmas = grids.karras(20)
  noise = sigmas[0] * jax.random.normal(KEY, (6, 3))
  drawn = SAMPLE(Mixture(), samplers.Euler(), noise, sigmas, key=KEY)
  x, _ = INVERT(Mixture(), samplers.Euler(), drawn, sigmas, iterations=60)
  np.testing.assert_allclose(x, noise, rtol=1e-4)


def test_ddim_inversion_is_first_order(x64):
  errors = []
  for steps in (160, 320, 640):
    sigmas = grids.exponential(steps, 0.01, 20.0)
    x = jax.jit(editing.ddim_invert)(Gaussian(), jnp.asarray(X0), sigmas)
    errors.append(np.abs(SAMPLE(Gaussian(), samplers.Euler(), x, sigmas, key=KEY) - X0).max())
  rates = np.log2(np.divide(errors[:-1], errors[1:]))
  assert np.all(np.abs(rates - 1) < 0.25), errors


def test_ddim_inversion_of_stable_diffusion_comes_back():
  """diffusers' DDIMInverseScheduler and back misses N(0, 1) data by 0.0008 rms here."""
  sigmas = grids.uniform_time(50, schedules.scaled_linear(), "leading", 1)
  x0 = jax.random.normal(KEY, (1000, 1))
  x = jax.jit(editing.ddim_invert)(Gaussian(0.0, 1.0), x0, sigmas)
  np.testing.assert_allclose(x.std() / jnp.hypot(1, sigmas[0]), x0.std(), rtol=0.03)
  back = SAMPLE(Gaussian(0.0, 1.0), samplers.Euler(), x, sigmas, key=KEY)
  assert jnp.sqrt(jnp.square(back - x0).mean()) < 2e-3


def test_exact_inversion_beats_ddim_inversion(x64):
  sigmas = grids.karras(10)
  back = lambda x: SAMPLE(Mixture(), samplers.Euler(), x, sigmas, key=KEY)
  naive = np.abs(back(editing.ddim_invert(Mixture(), jnp.asarray(X0), sigmas)) - X0).max()
  exact = np.abs(back(INVERT(Mixture(), samplers.Euler(), jnp.asarray(X0), sigmas)[0]) - X0).max()
  assert exact < 1e-4 < 0.01 < naive


def test_what_the_model_cannot_draw_shows_in_the_residual(x64):
  point = Gaussian(0.3, 0.0)  # draws 0.3 and nothing else
  _, residual = INVERT(point, samplers.Euler(), jnp.array([[0.8], [0.3]]), grids.karras(5))
  assert residual[0] > 0.4 and residual[1] < 0.01


def test_cond_reaches_the_denoiser_under_jit_and_vmap(x64):
  shifted = jax.tree_util.Partial(lambda x, sigma, cond=None, *, key=None: Gaussian()(x - cond, sigma) + cond)
  sigmas, cond = grids.karras(15), jnp.full((5, 1), 0.7)
  x, _ = INVERT(shifted, samplers.Euler(), jnp.asarray(X0), sigmas, cond=cond)
  np.testing.assert_allclose(SAMPLE(shifted, samplers.Euler(), x, sigmas, key=KEY, cond=cond), X0, atol=1e-4)
  each = jax.vmap(lambda x0: editing.ddim_invert(Gaussian(), x0[None], sigmas)[0])(jnp.asarray(X0))
  np.testing.assert_allclose(each, editing.ddim_invert(Gaussian(), jnp.asarray(X0), sigmas))


@pytest.mark.parametrize(
  ("sampler", "says"),
  [
    (samplers.Euler(0.1), "Euler draws noise and cannot be inverted"),
    (samplers.Churn(samplers.Heun(), 1.0, s_tmin=30.0, num_steps=10), "Churn draws noise"),
    (samplers.DDPM(), "DDPM draws noise"),
    (samplers.Euler, "sampler is the class Euler"),
    (samplers.DPMpp2M(), "DPMpp2M remembers earlier steps and cannot be inverted"),
  ],
)
def test_what_cannot_be_inverted(sampler, says):
  with pytest.raises(ValueError, match=says):
    editing.invert(Gaussian(), sampler, jnp.asarray(X0), grids.karras(10))


@pytest.mark.slow
def test_what_draws_noise_shows_under_jit():
  """DDPM is refused when traced; eta is hidden there, and speaks when the program runs, whose cache it shares."""
  sigmas = grids.karras(10)
  with pytest.raises(ValueError, match="DDPM draws noise"):
    INVERT(Gaussian(), samplers.DDPM(), jnp.asarray(X0), sigmas)
  with pytest.raises(ValueError, match="Euler draws noise"):
    jax.jit(lambda x0: editing.invert(Gaussian(), samplers.Euler(0.1), x0, sigmas))(jnp.asarray(X0))
  for sampler in (samplers.Euler(0.1), samplers.Churn(samplers.Heun(), 1.0, num_steps=10)):
    x, residual = INVERT(Gaussian(), sampler, jnp.asarray(X0), sigmas)
    assert np.isnan(x).all() and np.isinf(residual).all()
    x, residual = INVERT(
      Gaussian(), jax.tree.map(lambda leaf: 0.0 * np.nan_to_num(leaf), sampler), jnp.asarray(X0), sigmas
    )
    assert np.isfinite(x).all() and np.isfinite(residual).all()


def test_mistakes():
  with pytest.raises(ValueError, match="iterations is 0"):
    editing.invert(Gaussian(), samplers.Euler(), jnp.asarray(X0), grids.karras(10), iterations=0)
  for invert in (editing.ddim_invert, lambda *args: editing.invert(args[0], samplers.Euler(), *args[1:])):
    with pytest.raises(ValueError, match="descend strictly and end in 0"):
      invert(Gaussian(), jnp.asarray(X0), grids.karras(10)[::-1])
