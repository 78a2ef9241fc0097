"""Each published method: one step in its paper's own terms, x_t = alpha * x, beside its setting of energy guidance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Mixture

from diffjax import guidance, samplers, schedules
from diffjax.guidance import inverse

pytestmark = pytest.mark.usefixtures("x64")

SIGMA, SIGMA_NEXT = 1.3, 0.6
ALPHA, ALPHA_NEXT = (1 / np.sqrt(1 + s**2) for s in (SIGMA, SIGMA_NEXT))
STEP = ALPHA**2 / ALPHA_NEXT**2  # the papers' alpha_t, where ALPHA**2 is their alpha bar
NOISE, NOISE_BACK = (np.random.default_rng(i).normal(size=(2, 4, 4, 1)) for i in (0, 1))
START = np.random.default_rng(2).normal(size=(2, 4, 4, 1)) * SIGMA
KEYS = jax.random.split(jax.random.key(0), 2)
OPERATOR = inverse.SuperResolution(2)
Y = np.random.default_rng(3).normal(size=(2, 2, 2, 1))


def energy(x0, key=None):
  return jnp.square(jnp.sin(x0) - 0.4).sum((1, 2, 3))


def gradient(function, at):
  return jax.grad(lambda a: function(a).sum())(jnp.asarray(at))


def predict(x_t):
  """x0 hat of x_t."""
  return Mixture()(x_t / ALPHA, jnp.asarray(SIGMA))


def ddpm(x_t, x0):
  """Ho et al. 2020, eq. 6-7."""
  beta = 1 - STEP
  mean = ALPHA_NEXT * beta / (1 - ALPHA**2) * x0 + np.sqrt(STEP) * (1 - ALPHA_NEXT**2) / (1 - ALPHA**2) * x_t
  return mean + np.sqrt((1 - ALPHA_NEXT**2) / (1 - ALPHA**2) * beta) * NOISE


def ddim(eps, x0):
  """Song et al. 2020, DDIM, eq. 12 at eta = 0."""
  return ALPHA_NEXT * x0 + np.sqrt(1 - ALPHA_NEXT**2) * eps


def back(x_next):
  """x_t anew, from the less noisy x_next."""
  return np.sqrt(STEP) * x_next + np.sqrt(1 - STEP) * NOISE_BACK


def eps_of(x_t, x0):
  return (x_t - ALPHA * x0) / np.sqrt(1 - ALPHA**2)


def ours(sampler, guided):
  """x_next of one step from START."""
  start, levels = jnp.asarray(START), (jnp.asarray(SIGMA), jnp.asarray(SIGMA_NEXT))
  x, _ = sampler.step(guided, start, *levels, sampler.init(start), KEYS)
  return x * ALPHA_NEXT


def constant(noise):
  return lambda keys, shape: jnp.asarray(noise)


DDPM = samplers.DDPM(noise=constant(NOISE))


def assert_equal(drawn, expected):
  np.testing.assert_allclose(drawn, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("zeta", [0.3, 1.0])
def test_dps(zeta):
  """Chung et al. 2022: x_next minus zeta / |y - A x0| times the gradient of the squared norm."""
  x_t = ALPHA * START
  norm = lambda x_t: jnp.sqrt(jnp.square(Y - OPERATOR.apply(predict(x_t))).sum((1, 2, 3)))
  step = zeta / norm(x_t)[:, None, None, None] * gradient(lambda x_t: jnp.square(norm(x_t)), x_t)
  sampler = samplers.MeanGuided(DDPM, schedules.variance_preserving)
  assert_equal(
    ours(sampler, guidance.dps(Mixture(), OPERATOR, jnp.asarray(Y), 2 * zeta)), ddpm(x_t, predict(x_t)) - step
  )


@pytest.mark.slow
def test_lgd():
  """Song et al. 2023: the score of exp(-energy) averaged over N(x0, r^2), r^2 = sigma^2 / (1 + sigma^2)."""
  guided = guidance.lgd(Mixture(), energy, 0.7, num_samples=3)
  draws = []

  def averaged(x):
    from diffjax import randomness

    _, key = randomness.split(KEYS)
    for keys in randomness.split(key, 3):
      noise = randomness.normal(randomness.split(keys)[0], x.shape)
      draws.append(energy(Mixture()(x, jnp.asarray(SIGMA)) + SIGMA / np.sqrt(1 + SIGMA**2) * noise))
    return jnp.log(jnp.exp(-jnp.stack(draws)).mean(0))

  score = (predict(ALPHA * START) - START) / SIGMA**2 + 0.7 * gradient(averaged, START)
  assert_equal(guided(jnp.asarray(START), jnp.asarray(SIGMA), key=KEYS), START + SIGMA**2 * score)


def test_mpgd():
  """He et al. 2023, algorithm 1: x0 moves, eps does not."""
  x_t = ALPHA * START
  x0 = predict(x_t)
  expected = ddim(eps_of(x_t, x0), x0 - 0.2 * gradient(energy, x0))
  assert_equal(ours(samplers.MeanGuided(samplers.Euler()), guidance.mpgd(Mixture(), energy, 0.2)), expected)


def test_freedom_with_time_travel():
  """Yu et al. 2023: rho_t = scale * alpha, after the step; then back to x_t and again."""
  x_t = ALPHA * START
  for _ in range(2):
    x_next = ddpm(x_t, predict(x_t)) - 0.5 * ALPHA * gradient(lambda x_t: energy(predict(x_t)), x_t)
    x_t = back(x_next)
  guided = samplers.MeanGuided(DDPM, schedules.variance_preserving)
  sampler = samplers.Recurrent(guided, 2, noise=constant(NOISE_BACK))
  assert_equal(ours(sampler, guidance.freedom(Mixture(), energy, 0.5)), x_next)


def test_universal_with_backward_guidance_and_recurrence():
  """Bansal et al. 2023, algorithm 1, with gradient descent for the minimum of the backward part."""
  x_t = ALPHA * START
  for _ in range(3):
    x0 = predict(x_t)
    eps = eps_of(x_t, x0) + 0.6 * np.sqrt(1 - ALPHA**2) * gradient(lambda x_t: energy(predict(x_t)), x_t)
    delta = jnp.zeros_like(x0)
    for _ in range(4):
      delta = delta - 0.1 * gradient(lambda delta, x0=x0: energy(x0 + delta), delta)
    eps = eps - ALPHA / np.sqrt(1 - ALPHA**2) * delta
    x_next = ddim(eps, (x_t - np.sqrt(1 - ALPHA**2) * eps) / ALPHA)
    x_t = back(x_next)
  sampler = samplers.Recurrent(samplers.Euler(), 3, noise=constant(NOISE_BACK))
  assert_equal(ours(sampler, guidance.universal(Mixture(), energy, 0.6, inner_steps=4, inner_scale=0.1)), x_next)


@pytest.mark.slow
def test_training_free_with_recurrence():
  """Ye et al. 2024, algorithm 1: variance guidance over sqrt(alpha_t), mean guidance times sqrt(alpha bar)."""
  x_t = ALPHA * START
  for _ in range(2):
    x0 = predict(x_t)
    variance = -0.3 * gradient(lambda x_t: energy(predict(x_t)), x_t)
    mean = jnp.zeros_like(x0)
    for _ in range(4):
      mean = mean - 0.1 * gradient(energy, x0 + mean)
    x_next = ddpm(x_t, x0) + variance / np.sqrt(STEP) + ALPHA_NEXT * mean
    x_t = back(x_next)
  sampler = samplers.Recurrent(samplers.MeanGuided(DDPM), 2, noise=constant(NOISE_BACK))
  assert_equal(ours(sampler, guidance.training_free(Mixture(), energy, rho=0.3, mu=0.1)), x_next)


@pytest.mark.slow
def test_scales_may_be_schedules():
  at = lambda guided: guided(jnp.asarray(START), jnp.asarray(SIGMA), key=KEYS)
  rho, mu = (jax.tree_util.Partial(lambda share, sigma: share * sigma, share) for share in (0.3, 0.1))
  for make in (guidance.freedom, guidance.mpgd, guidance.universal):
    assert_equal(at(make(Mixture(), energy, rho)), at(make(Mixture(), energy, 0.3 * SIGMA)))
  by_schedule = guidance.training_free(Mixture(), energy, rho, mu)
  assert_equal(at(by_schedule), at(guidance.training_free(Mixture(), energy, 0.3 * SIGMA, 0.1 * SIGMA)))
  assert_equal(
    at(guidance.dps(Mixture(), OPERATOR, jnp.asarray(Y), rho)),
    at(guidance.dps(Mixture(), OPERATOR, jnp.asarray(Y), 0.3 * SIGMA)),
  )


def test_every_constructor_has_defaults():
  for make in (guidance.lgd, guidance.mpgd, guidance.freedom, guidance.universal, guidance.training_free):
    assert np.isfinite(make(Mixture(), energy)(jnp.asarray(START), jnp.asarray(SIGMA), key=KEYS)).all()


def test_cfgpp_outside_its_interval_is_the_conditional_model():
  by_label = lambda x, sigma, cond, key: Mixture()(x, sigma) + 0.3 * cond["label"][:, None, None, None]
  x, sigma, cond = jnp.asarray(START), jnp.asarray(SIGMA), {"label": jnp.ones(2, int)}
  for highest, base, shift in ((SIGMA / 2, by_label(x, sigma, cond, None), 0.0), (SIGMA, Mixture()(x, sigma), 0.24)):
    denoised = guidance.ClassifierFree(by_label, {"label": 0}, 0.8, (0.0, highest)).predict(x, sigma, cond)
    assert_equal((denoised.unguided, denoised.x0), (base, base + shift))


@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_cfgpp(eta):
  """Chung et al. 2024: the guided x0, renoised with the unconditional eps."""
  by_label = lambda x, sigma, cond, key: Mixture()(x, sigma) + 0.3 * cond["label"][:, None, None, None]
  x_t = ALPHA * START
  null, conditional = predict(x_t), predict(x_t) + 0.3
  x0, eps = null + 0.8 * (conditional - null), eps_of(x_t, null)
  sigma_t = eta * np.sqrt((1 - ALPHA_NEXT**2) / (1 - ALPHA**2) * (1 - STEP))
  expected = ALPHA_NEXT * x0 + np.sqrt(1 - ALPHA_NEXT**2 - sigma_t**2) * eps + sigma_t * NOISE
  free = guidance.ClassifierFree(by_label, {"label": 0}, 0.8)

  class Conditioned:
    predict = staticmethod(lambda x, sigma, cond, key: free.predict(x, sigma, {"label": jnp.ones(2, int)}, key=key))

  assert_equal(ours(samplers.MeanGuided(samplers.Euler(eta, noise=constant(NOISE))), Conditioned()), expected)
