"""Likelihood against closed forms: Gaussian data and mixtures, by the ODE and by the variational bound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from oracles import Gaussian, Mixture
from tiny_runs import a_run

from diffjax import from_config, grids, guidance, likelihood, schedules
from diffjax.denoised import Denoised

pytestmark = pytest.mark.slow

LOW, HIGH = 0.01, 1e6  # the mean of the data is forgotten as 1 / HIGH
DATA = np.random.default_rng(0).normal(0.3, 0.5, (6, 2, 2, 1))


def levels(num):
  return jnp.asarray(np.geomspace(LOW, HIGH, num))


def exact(oracle, x):
  """Log density of the oracle's data with noise LOW, in every pixel independently."""
  means = np.asarray(getattr(oracle, "means", [getattr(oracle, "mean", None)]))
  std = np.hypot(oracle.std, LOW)
  return np.log(scipy.stats.norm(means, std).pdf(np.asarray(x)[..., None]).mean(-1)).reshape(len(x), -1).sum(1)


@pytest.mark.parametrize("oracle", [Gaussian(), Mixture()], ids=["gaussian", "mixture"])
def test_exact_trace_gives_the_exact_density(oracle, x64):
  found = likelihood.log_likelihood(oracle, jnp.asarray(DATA), levels(300))
  np.testing.assert_allclose(found, exact(oracle, DATA), atol=1e-5)


@pytest.mark.parametrize("oracle", [Gaussian(), Mixture()], ids=["gaussian", "mixture"])
def test_fourth_order(oracle, x64):
  values = [np.asarray(likelihood.log_likelihood(oracle, jnp.asarray(DATA), levels(n))) for n in (41, 81, 161, 1281)]
  errors = [np.abs(value - values[-1]).max() for value in values[:-1]]
  assert np.all(np.log2(np.divide(errors[:-1], errors[1:])) > 3.5), errors


def test_float32():
  found = likelihood.log_likelihood(Gaussian(), jnp.asarray(DATA, jnp.float32), jnp.geomspace(LOW, 1e5, 100))
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, exact(Gaussian(), DATA), atol=2e-4)


COVARIANCE = np.array([[1.0, 0.6, 0.2], [0.6, 0.8, -0.1], [0.2, -0.1, 0.5]])
VARIANCES, AXES = np.linalg.eigh(COVARIANCE)


def correlated(x, sigma, cond=None, *, key=None):
  """Ideal for N(cond, COVARIANCE): its Jacobian is not diagonal, so that probes differ."""
  gains = VARIANCES / (VARIANCES + sigma**2)
  return cond + (x - cond) @ (AXES * gains[None]) @ AXES.T


def test_dimensions_that_depend_on_each_other(x64):
  x, cond = jnp.array([[0.5, -1.0, 0.3], [0.0, 0.2, 2.0]]), jnp.array([[0.1, 0.1, 0.1], [0.0, 1.0, -1.0]])
  found = likelihood.log_likelihood(correlated, x, levels(300), cond=cond)
  noised = COVARIANCE + LOW**2 * np.eye(3)
  expected = [scipy.stats.multivariate_normal(m, noised).logpdf(a) for a, m in zip(np.asarray(x), np.asarray(cond))]
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_probes_are_unbiased_and_each_samples_own(x64):
  x, cond = jnp.full((512, 3), 0.4), jnp.zeros((1, 3))
  exactly = likelihood.log_likelihood(correlated, x[:1], levels(60), cond=cond)
  one = likelihood.log_likelihood(correlated, x, levels(60), cond=cond, key=jax.random.key(1), num_probes=1)
  four = likelihood.log_likelihood(correlated, x, levels(60), cond=cond, key=jax.random.key(2), num_probes=4)
  assert abs(one.mean() - exactly[0]) < 4 * one.std() / 512**0.5
  assert 0.4 < four.std() / one.std() < 0.6  # 1 / sqrt(4)
  first = likelihood.log_likelihood(correlated, x[:3], levels(60), cond=cond, key=jax.random.key(1), num_probes=1)
  np.testing.assert_allclose(first, one[:3], rtol=1e-12)


def test_rademacher_probes_are_exact_for_a_diagonal_jacobian(x64):
  found = likelihood.log_likelihood(Mixture(), jnp.asarray(DATA), levels(60), key=jax.random.key(0), num_probes=1)
  np.testing.assert_allclose(found, likelihood.log_likelihood(Mixture(), jnp.asarray(DATA), levels(60)), rtol=1e-12)


def test_a_network_compiled_whole_and_differentiable(tiny):
  run = a_run(tiny())
  denoiser = from_config.denoiser(run.config, jax.device_put(run.params))
  x = jax.random.uniform(jax.random.key(0), (3, 8, 8, 1), minval=-1)
  sigmas = jnp.geomspace(0.1, 8.0, 5)
  whole = jax.jit(likelihood.log_likelihood)(denoiser, x, sigmas)
  assert np.all(np.isfinite(whole))
  alone = jax.jit(likelihood.log_likelihood)(denoiser, x[1:2], sigmas)
  np.testing.assert_allclose(whole[1], alone[0], rtol=1e-4)
  estimate = jax.jit(likelihood.log_likelihood, static_argnames="num_probes")
  probes = estimate(denoiser, x, sigmas, key=jax.random.key(0), num_probes=256)
  np.testing.assert_allclose(probes, whole, atol=15)
  # one step of the trace, by differences
  f = lambda x: np.asarray(denoiser(jnp.asarray(x, jnp.float32), jnp.asarray(0.5)), np.float64)
  _, trace = likelihood._with_trace(lambda x: denoiser(x, jnp.asarray(0.5)), x, likelihood._directions(x, None, None))
  steps = 1e-2 * np.eye(64).reshape(64, 1, 8, 8, 1)
  differences = [(f(x[:1] + e) - f(x[:1] - e)).ravel() @ e.ravel() / 2e-4 for e in steps]
  np.testing.assert_allclose(trace[0], np.sum(differences), rtol=2e-3)


def test_vmap_and_gradient():
  x = jnp.asarray(DATA, jnp.float32)
  each = jax.vmap(lambda x: likelihood.log_likelihood(Gaussian(), x[None], levels(60))[0])(x)
  np.testing.assert_allclose(each, likelihood.log_likelihood(Gaussian(), x, levels(60)), atol=2e-4)
  score = jax.grad(lambda x: likelihood.log_likelihood(Gaussian(), x, levels(60)).sum())(x)
  np.testing.assert_allclose(score, (0.3 - x) / (0.5**2 + LOW**2), atol=2e-3)


@pytest.mark.parametrize(
  ("options", "says"),
  [
    ({"sigmas": grids.karras(5)}, "sigmas must ascend strictly from above zero"),
    ({"sigmas": jnp.array([0.0, 1.0])}, "sigmas must ascend strictly from above zero"),
    ({"sigmas": jnp.array([jnp.nan, 1.0])}, "sigmas must ascend strictly from above zero"),
    ({"sigmas": jnp.array([1.0])}, "at least two levels"),
    ({"num_probes": 2}, "at least 1, with a key"),
    ({"num_probes": 0, "key": jax.random.key(0)}, "num_probes is 0"),
  ],
)
def test_mistakes(options, says):
  with pytest.raises(ValueError, match=says):
    likelihood.log_likelihood(Gaussian(), jnp.zeros((1, 2)), **{"sigmas": levels(9), **options})


def test_dequantised_levels_fill_the_range_evenly():
  images = jnp.tile(jnp.arange(256, dtype=jnp.uint8)[None, :, None], (8, 1, 16))
  x = np.ravel(likelihood.dequantize(images, jax.random.key(0)))
  np.testing.assert_array_equal(np.round((x + 1) * 127.5), np.ravel(images))
  assert scipy.stats.ks_1samp((x * 127.5 + 128) / 256, scipy.stats.uniform.cdf).pvalue > 1e-3


def test_uniform_pixels_cost_eight_bits():
  density = -np.log(256 / 127.5)  # of uniform numbers as wide as all 256 levels
  np.testing.assert_allclose(likelihood.bits_per_dim(np.full(3, 10 * density), 10), 8)


def test_bits_of_the_density_bound_those_of_the_levels(x64):
  """For a normal distribution ten levels wide the two agree up to the levels' width squared."""
  values, std = np.arange(68, 188), 10 / 127.5
  normal = scipy.stats.norm(0.0, std)
  true = -np.log2(normal.cdf((values + 0.5) / 127.5 - 1) - normal.cdf((values - 0.5) / 127.5 - 1))
  images = jnp.broadcast_to(jnp.asarray(values, jnp.uint8)[:, None], (120, 2000))
  x = likelihood.dequantize(images, jax.random.key(1))
  bits = likelihood.bits_per_dim(normal.logpdf(np.asarray(x)), 1).mean(1)
  weights = np.exp2(-true)
  gap = np.sum(weights * (bits - true))
  assert 0 < gap < 5e-3


def classic_bound(betas, x0, noises, predict, share, decoder_share):
  """The bound of Nichol & Dhariwal 2021 from betas, in x_t and step by step: prior, terms, reconstruction.

  Their larger variance, too, is the posterior's of the second step where the pixels are decoded: decoder_share 0.
  """
  total = np.cumprod(1 - betas)
  before = np.append(1.0, total[:-1])
  small = betas * (1 - before) / (1 - total)
  small[0] = small[1]
  bits = lambda nats: np.mean(nats.reshape(len(x0), -1), axis=1) / np.log(2)
  kl = lambda m1, v1, m2, v2: (np.log(v2 / v1) + (v1 + (m1 - m2) ** 2) / v2 - 1) / 2
  terms = []
  for t, beta in enumerate(betas):
    x = np.sqrt(total[t]) * x0 + np.sqrt(1 - total[t]) * noises[t]
    predicted = predict(x / np.sqrt(total[t]), np.sqrt(1 / total[t] - 1))
    larger = share if t else decoder_share
    variance = np.exp(larger * np.log(beta) + (1 - larger) * np.log(small[t]))
    from_x0 = np.sqrt(before[t]) * beta / (1 - total[t])
    from_x = np.sqrt(1 - beta) * (1 - before[t]) / (1 - total[t])
    means = [from_x0 * a + from_x * x for a in (x0, predicted)]
    if t:
      terms.append(bits(kl(means[0], small[t], means[1], variance)))
    else:
      normal = scipy.stats.norm(means[1], np.sqrt(variance))
      upper = np.where(x0 > 0.999, 1.0, normal.cdf(x0 + 1 / 255))
      reconstruction = bits(-np.log(upper - np.where(x0 < -0.999, 0.0, normal.cdf(x0 - 1 / 255))))
  prior = bits(kl(np.sqrt(total[-1]) * x0, 1 - total[-1], 0.0, 1.0))
  return prior, np.array(terms), reconstruction


PIXELS = np.array([0, 90, 128, 166, 200, 255])[:, None, None] / 127.5 - 1 + np.zeros((6, 3, 2))
BETAS = np.linspace(1e-3, 0.2, 30)


@pytest.mark.parametrize(("learned", "fraction"), [(None, 0.0), (None, 1.0), (0.3, 0.0)])
def test_bound_is_the_published_one(learned, fraction, x64):
  denoiser = Gaussian(0.1, 0.4)

  class Learned:
    def predict(self, x, sigma, cond=None, *, key=None):
      return Denoised(denoiser(x, sigma), variance=jnp.full_like(x, learned))

  noises = np.random.default_rng(0).normal(size=(30, *PIXELS.shape))
  drawn = lambda keys, shape: jnp.asarray(noises)[jax.random.key_data(keys)[0, 1]]
  keys = jax.vmap(lambda i: jax.random.wrap_key_data(jnp.array([0, 0], jnp.uint32)))(jnp.arange(6))

  def numbered(keys, number):
    return jax.random.wrap_key_data(jax.random.key_data(keys).at[:, 1].set(jnp.uint32(number)))

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(likelihood.randomness, "fold_in", numbered)
    bound = likelihood.variational_bound(
      denoiser if learned is None else Learned(),
      schedules.from_betas(BETAS),
      jnp.asarray(PIXELS),
      key=keys,
      fraction=fraction,
      noise=drawn,
    )
  share, decoder_share = (fraction, 0.0) if learned is None else (learned, learned)
  prior, terms, reconstruction = classic_bound(
    BETAS, PIXELS, noises, lambda x, s: np.asarray(denoiser(jnp.asarray(x), s)), share, decoder_share
  )
  assert bound.steps.shape == (29, 6)
  np.testing.assert_allclose(bound.prior, prior, rtol=1e-8)
  np.testing.assert_allclose(bound.steps, terms, rtol=1e-8)
  np.testing.assert_allclose(bound.reconstruction, reconstruction, rtol=1e-6)
  np.testing.assert_allclose(bound.total, prior + terms.sum(0) + reconstruction, rtol=1e-6)


@pytest.mark.slow
def test_bound_of_pictures_in_16_bits():
  bound = lambda x0: likelihood.variational_bound(Gaussian(), schedules.linear(), x0, key=jax.random.key(0)).total
  x0 = jnp.asarray([[-1.0, 0.0, 0.5, 1.0]])
  np.testing.assert_allclose(bound(x0.astype(jnp.bfloat16)), bound(x0), rtol=1e-5)


def test_bound_has_its_closed_form_for_gaussian_data(x64):
  """Noise of +1 and -1 in equal parts gives the exact mean of all that is quadratic in it."""
  mean, std, schedule = 0.1, 0.4, schedules.from_betas(BETAS)
  signs = lambda keys, shape: jnp.asarray((-1.0) ** np.arange(np.prod(shape)).reshape(shape))
  x0 = jnp.full((1, 4, 4, 1), 38 / 127.5)
  bound_of = jax.jit(likelihood.variational_bound, static_argnames="noise")
  bound = bound_of(Gaussian(mean, std), schedule, x0, key=jax.random.key(0), noise=signs)
  sigma = np.asarray(schedule.sigma(jnp.arange(30.0)))
  error = (sigma**4 * (38 / 127.5 - mean) ** 2 + std**4 * sigma**2) / (sigma**2 + std**2) ** 2
  expected = (1 / sigma[:-1] ** 2 - 1 / sigma[1:] ** 2) / 2 * error[1:] / np.log(2)
  np.testing.assert_allclose(bound.steps[:, 0], expected, rtol=1e-4)


def test_bound_lies_above_the_likelihood(x64):
  """By 0.76 bits here, even for the ideal denoiser: the first steps of the linear schedule each double the noise.

  The data are all grey levels, weighted by a Gaussian; noise is as in the test above.
  """
  std, schedule, levels = 0.4, schedules.linear(), np.arange(1, 255) / 127.5 - 1
  signs = lambda keys, shape: jnp.broadcast_to(jnp.array([1.0, -1.0]), shape)
  x0 = jnp.broadcast_to(levels[:, None], (254, 2))
  bound_of = jax.jit(likelihood.variational_bound, static_argnames="noise")
  bound = bound_of(Gaussian(0.0, std), schedule, x0, key=jax.random.key(0), noise=signs)
  sigma = np.asarray(schedule.sigma(jnp.arange(1000.0)))[:, None]
  error = (sigma**4 * levels**2 + std**4 * sigma**2) / (sigma**2 + std**2) ** 2
  steps = ((1 / sigma[:-1] ** 2 - 1 / sigma[1:] ** 2) / 2 * error[1:]).sum(0) / np.log(2)
  np.testing.assert_allclose(bound.steps.sum(0), steps, rtol=1e-9)

  normal = scipy.stats.norm(0.0, std)
  probability = normal.cdf(levels + 1 / 255) - normal.cdf(levels - 1 / 255)
  above = bound.total + np.log2(probability)
  assert np.all(above > 0)
  np.testing.assert_allclose(np.average(above, weights=probability), 0.764, atol=1e-3)


def test_bound_of_a_network_in_one_program(tiny):
  config = tiny()
  config.model.learned_variance = True
  run = a_run(config)
  denoiser = guidance.StaticThreshold(from_config.denoiser(config, jax.device_put(run.params)))
  x0 = jax.random.randint(jax.random.key(0), (3, 8, 8, 1), 0, 256) / 127.5 - 1
  bound = jax.jit(likelihood.variational_bound)(denoiser, schedules.linear(20), x0, key=jax.random.key(1))
  assert bound.steps.shape == (19, 3) and np.all(np.isfinite(bound.total))
  alone = jax.jit(likelihood.variational_bound)(denoiser, schedules.linear(20), x0[:1], key=jax.random.key(1))
  np.testing.assert_allclose(bound.total[:1], alone.total, rtol=1e-4)


@pytest.mark.parametrize("schedule", [schedules.VP(), schedules.linear(1)])
def test_bound_needs_steps(schedule):
  with pytest.raises(ValueError, match="needs a discrete schedule of two steps or more"):
    likelihood.variational_bound(Gaussian(), schedule, jnp.zeros((1, 2)), key=jax.random.key(0))
