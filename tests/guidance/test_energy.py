"""Energy guidance against exactly tilted Gaussians, and what it promises of calls, keys and broken gradients."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian, Mixture
from traced import traced

import diffjax
from diffjax import DiffjaxWarning, grids, guidance, samplers
from diffjax.arrays import expand
from diffjax.denoised import Denoised
from diffjax.randomness import normal

pytestmark = pytest.mark.slow

KEYS = jax.random.split(jax.random.key(0), 3)
SIGMAS = [pytest.param(np.array(0.7), id="[]"), pytest.param(np.array([0.05, 0.7, 30.0]), id="[B]")]
DATA = Gaussian(0.3, 0.5)


def start(sigma=1.0):
  return 0.3 + expand(jnp.asarray(sigma), jnp.ones((3, 4))) * jax.random.normal(jax.random.key(1), (3, 4))


def total(a):
  return a.sum(tuple(range(1, a.ndim)))


def linear(x0, key=None):
  return total(0.8 * x0)


def quadratic(x0, key=None):
  return 3 * total(jnp.square(x0 - 1)) / 2


def posterior_variance(sigma, std=DATA.std):
  return sigma**2 * std**2 / (sigma**2 + std**2)


def tilted(x, sigma, data=DATA):
  """The ideal denoiser of data times exp(-quadratic)."""
  variance = expand(posterior_variance(jnp.asarray(sigma), data.std), x)
  return (data(x, sigma) + 3 * variance * 1) / (1 + 3 * variance)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_a_linear_energy_tilts_exactly(sigma, x64):
  expected = DATA(start(), sigma) - 0.8 * expand(posterior_variance(sigma), start())
  guided = guidance.EnergyGuidance(DATA, linear)
  np.testing.assert_allclose(guided(start(), jnp.asarray(sigma)), expected, rtol=1e-12)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("position", ["score", "mean", "x0"])
def test_a_quadratic_energy_tilts_exactly_with_the_right_scale(position, sigma, x64):
  """x0 must move down by C / (1 + 3 C) times the energy's slope; each position has C from elsewhere."""
  shrink = lambda sigma: 1 / (1 + 3 * posterior_variance(sigma))
  scale = {
    "score": shrink,
    "mean": lambda sigma: sigma**2 * shrink(sigma),
    "x0": lambda sigma: posterior_variance(sigma) * shrink(sigma),
  }[position]
  guided = guidance.EnergyGuidance(DATA, quadratic, scale, position)
  np.testing.assert_allclose(guided(start(), jnp.asarray(sigma)), tilted(start(), sigma), rtol=1e-10)


def test_monte_carlo_is_exact_for_unit_data(x64):
  """Averaging over the true posterior leaves no bias; without it there is one."""
  unit, x = Gaussian(0.3, 1.0), start()[:, :1]
  exact = tilted(x, 1.0, unit)
  many = guidance.lgd(unit, quadratic, num_samples=40_000)(x, jnp.asarray(1.0), key=KEYS)
  assert np.abs(many - exact).max() < 0.02
  assert np.abs(guidance.EnergyGuidance(unit, quadratic)(x, jnp.asarray(1.0)) - exact).min() > 0.1


def test_samples_of_a_tilted_gaussian(x64):
  shrink = lambda sigma: 1 / (1 + 3 * posterior_variance(sigma))
  sigmas = grids.karras(40)
  x = sigmas[0] * jax.random.normal(jax.random.key(2), (3, 40, 40, 1))
  guided = guidance.EnergyGuidance(DATA, quadratic, shrink)
  drawn = diffjax.sample(guided, samplers.Heun(), x, sigmas, key=KEYS)
  variance = 1 / (1 / 0.25 + 3)
  np.testing.assert_allclose(drawn.mean((1, 2, 3)), (0.3 / 0.25 + 3) * variance, atol=0.03)
  np.testing.assert_allclose(drawn.var((1, 2, 3)), variance, rtol=0.1)


def test_one_call_and_one_gradient_for_any_number_of_energies():
  calls = {"forward": 0, "backward": 0}

  @jax.custom_vjp
  def network(x):
    calls["forward"] += 1
    return x / 2

  def backward(_, cotangent):
    calls["backward"] += 1
    return (cotangent / 2,)

  network.defvjp(lambda x: (network.fun(x), None), backward)
  terms = guidance.energies(linear, quadratic, guidance.energies(linear, quadratic), weights=(1.0, 0.5, -2.0))
  for options in (dict(), dict(inner_steps=3, inner_scale=0.1), dict(num_samples=4)):
    calls.update(forward=0, backward=0)
    guided = guidance.EnergyGuidance(lambda x, sigma, cond, key: network(x), terms, **options)
    shifted = guided(start(), jnp.asarray(0.7), key=KEYS) - start() / 2
    assert calls == {"forward": 1, "backward": 1}
  assert jnp.all(shifted != 0)
  past = guidance.EnergyGuidance(lambda x, sigma, cond, key: network(x), terms, position="x0")
  calls.update(forward=0, backward=0)
  past(start(), jnp.asarray(0.7))
  assert calls == {"forward": 1, "backward": 0}


def test_energies_add_with_their_weights_and_keys_of_their_own():
  noisy = lambda x0, key: total(normal(key, x0.shape) * x0)
  both = guidance.energies(quadratic, linear, weights=(2.0, -1.0))
  np.testing.assert_allclose(both(start()), 2 * quadratic(start()) - linear(start()), rtol=1e-6)
  difference = guidance.energies(noisy, noisy, weights=(1.0, -1.0))(start(), KEYS)
  assert jnp.all(difference != 0)
  with pytest.raises(ValueError, match="one weight for each"):
    guidance.energies(linear, weights=(1.0, 2.0))
  with pytest.raises(ValueError, match="one weight for each"):
    guidance.energies()


def test_a_gradient_that_is_not_finite_is_zero_and_told():
  told = []
  broken = lambda x0, key: linear(x0) + total(jnp.sqrt(0 * x0))  # the slope of the root is infinite
  report = lambda count, sigma: told.append((int(count), float(sigma)))
  guided = guidance.EnergyGuidance(DATA, broken, report=report)
  x0 = jax.jit(lambda x: guided(x, jnp.asarray(0.7)))(start())
  jax.effects_barrier()
  assert np.isfinite(x0).all()
  silent = guidance.EnergyGuidance(DATA, broken, report=None)(start(), jnp.asarray(0.7))
  assert not np.isfinite(silent).all(axis=1).any()  # where nobody is told, it shows
  unguided, well = DATA(start(), 0.7), guidance.EnergyGuidance(DATA, linear)(start(), jnp.asarray(0.7))
  assert told == [(3, pytest.approx(0.7))]
  np.testing.assert_allclose(x0, unguided, rtol=1e-6)

  levels = jnp.array([-1e3, 1e3, 1e3]).reshape(3, 1)  # the root of the first sample alone is that of negative numbers
  first_only = lambda x0, key: linear(x0) + 1e-12 * total(jnp.sqrt(x0 + levels))
  told.clear()
  x0 = guidance.EnergyGuidance(DATA, first_only, report=report)(start(), jnp.asarray(0.7))
  jax.effects_barrier()
  assert told == [(1, pytest.approx(0.7))]
  np.testing.assert_allclose(x0[:1], unguided[:1], rtol=1e-6)
  np.testing.assert_allclose(x0[1:], well[1:], rtol=1e-5)


def test_gradients_that_are_not_finite_are_warned_of_and_no_others():
  guided = guidance.EnergyGuidance(DATA, linear)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    jax.jit(lambda x: guided(x, jnp.asarray(0.7)))(start())
    jax.effects_barrier()
  infinite = guidance.EnergyGuidance(DATA, lambda x0, key: total(x0) / 0.0)
  with pytest.warns(DiffjaxWarning, match=r"3 gradients at sigma 0\.7 were not finite"):
    np.testing.assert_allclose(infinite(start(), jnp.asarray(0.7)), DATA(start(), 0.7), rtol=1e-6)
    jax.effects_barrier()


@pytest.mark.parametrize("position", ["score", "x0"])
def test_nothing_is_told_of_finite_gradients_under_vmap(position):
  told = []
  guided = guidance.EnergyGuidance(DATA, linear, position=position, report=lambda *what: told.append(what))
  jax.vmap(lambda x: guided(x, jnp.asarray(0.7)))(jnp.stack([start(), start()]))
  broken = guidance.EnergyGuidance(DATA, lambda x0, key: total(x0) ** 2 / 0.0, report=guided.report)
  jax.effects_barrier()
  assert not told
  jax.vmap(lambda x: broken(x, jnp.asarray(0.7)))(jnp.stack([start(), start()]))
  jax.effects_barrier()
  assert [int(count) for count, _ in told] == [3, 3]


def rms(a):
  return np.sqrt(np.square(np.asarray(a)).mean((1, 2, 3)))


def test_normalize_clamp_and_interval_are_per_sample():
  x = jnp.array([0.01, 1.0, 100.0]).reshape(3, 1, 1, 1) * jax.random.normal(jax.random.key(3), (3, 4, 4, 1))
  sigma = jnp.array([0.2, 1.0, 5.0])

  def shift(**options):
    denoised = guidance.EnergyGuidance(DATA, quadratic, 2.0, **options).predict(x, sigma)
    return denoised.x0 - denoised.unguided

  np.testing.assert_allclose(rms(shift(position="x0", normalize=True)), 2, rtol=1e-5)
  free, clamped = shift(), shift(clamp=0.5)
  assert rms(free)[0] < 0.5 < rms(free)[2]
  np.testing.assert_allclose(rms(clamped), np.minimum(rms(free), 0.5), rtol=1e-5)
  np.testing.assert_allclose(clamped[2] / rms(clamped)[2], free[2] / rms(free)[2], rtol=1e-4)
  inside = shift(interval=(0.5, 2.0))
  assert not inside[0].any() and not inside[2].any()
  np.testing.assert_allclose(inside[1], free[1], rtol=1e-6)


@pytest.mark.parametrize("options", [dict(), dict(num_samples=4, inner_steps=2, inner_scale=0.05, normalize=True)])
def test_batch_mates_do_not_matter(options):
  noisy = lambda x0, key: quadratic(x0) + total(normal(key, x0.shape) * x0)
  guided = guidance.EnergyGuidance(Mixture(), noisy, clamp=0.3, **options)
  sigma = jnp.array([0.2, 1.0, 5.0])
  whole = guided(start(), sigma, key=KEYS)
  np.testing.assert_allclose(guided(start()[1:2], sigma[1:2], key=KEYS[1:2]), whole[1:2], rtol=1e-5)


def test_hyper_parameters_do_not_compile_again_and_all_transformations_work():
  partial = jax.tree_util.Partial(quadratic)
  make = lambda scale, clamp: guidance.EnergyGuidance(jax.tree_util.Partial(Mixture()), partial, scale, clamp=clamp)
  sigmas = grids.karras(5, sigma_min=0.1, sigma_max=5.0)
  draw = traced(lambda guided, x: diffjax.sample(guided, samplers.Euler(), x, sigmas, key=KEYS))
  first = draw(make(1.0, 1.0), start())
  assert not np.allclose(first, draw(make(0.1, 1.0), start()))
  assert not np.allclose(first, draw(make(1.0, 0.01), start()))
  assert draw.traces == 1
  gradient = jax.grad(lambda x: jnp.square(draw(make(0.1, 1.0), x)).sum())(start())
  assert np.isfinite(gradient).all() and (gradient != 0).any()
  stacked = jax.vmap(lambda scale: draw(make(scale, 1.0), start()))(jnp.array([1.0, 0.1]))
  np.testing.assert_allclose(stacked[0], first, rtol=1e-4, atol=1e-5)


def test_a_learned_variance_passes_through():
  class Learned:
    def predict(self, x, sigma, cond=None, *, key=None):
      return Denoised(DATA(x, sigma), variance=jnp.full_like(x, 0.25))

  guided = guidance.EnergyGuidance(Learned(), linear)
  denoised = guided.predict(start(), jnp.asarray(0.7))
  np.testing.assert_allclose(denoised.x0, guidance.EnergyGuidance(DATA, linear)(start(), jnp.asarray(0.7)), rtol=1e-6)
  assert jnp.all(denoised.variance == 0.25)
  assert guidance.EnergyGuidance(DATA, linear).predict(start(), jnp.asarray(0.7)).variance is None


def test_bad_input():
  with pytest.raises(ValueError, match="EnergyGuidance has no position 'eps'; choose one of score, mean, x0"):
    guidance.EnergyGuidance(DATA, linear, position="eps")
  with pytest.raises(ValueError, match="one key per sample"):
    guidance.lgd(DATA, linear)(start(), jnp.asarray(0.7))
