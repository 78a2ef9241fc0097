import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from diffjax import posterior, schedules

TABLES = {
  "linear": np.linspace(1e-4, 0.02, 1000),
  "short": np.linspace(1e-3, 0.3, 20),
  "scaled_linear": np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2,
}


def classic(betas):
  """Ho et al. 2020, eq. 6-7, for steps t = 1..T-1 in the paper's own terms, and as a density by Bayes' rule."""
  alphas_cumprod = np.cumprod(1 - betas)
  now, before, beta = alphas_cumprod[1:], alphas_cumprod[:-1], betas[1:]
  return {
    "x0": np.sqrt(before) * beta / (1 - now),
    "x": np.sqrt(1 - beta) * (1 - before) / (1 - now),
    "variance": (1 - before) / (1 - now) * beta,
    "beta": beta,
    "alpha": np.sqrt(now),
    "alpha_before": np.sqrt(before),
  }


@pytest.mark.parametrize("name", TABLES)
def test_whole_table_is_ho_et_al(name, x64):
  table, schedule = classic(TABLES[name]), schedules.from_betas(TABLES[name])
  sigma = schedule.sigma(jnp.arange(1.0, len(TABLES[name])))
  below = schedule.sigma(jnp.arange(0.0, len(TABLES[name]) - 1))
  x0, x = 0.7, -1.3  # x = x_t / alpha_t
  mean = posterior.mean(jnp.full_like(sigma, x0), jnp.full_like(sigma, x), sigma, below) * table["alpha_before"]
  np.testing.assert_allclose(mean, table["x0"] * x0 + table["x"] * table["alpha"] * x, rtol=1e-9)
  variance = jnp.exp(posterior.log_variance(sigma, below)) * table["alpha_before"] ** 2
  np.testing.assert_allclose(variance, table["variance"], rtol=1e-9)
  larger = jnp.exp(posterior.larger_log_variance(sigma, below)) * table["alpha_before"] ** 2
  np.testing.assert_allclose(larger, table["beta"], rtol=1e-9)


@pytest.mark.parametrize("name", TABLES)
def test_float32_keeps_the_table(name):
  schedule = schedules.from_betas(TABLES[name])
  sigma, below = (schedule.sigma(jnp.arange(a, len(TABLES[name]) - 1 + a)) for a in (1.0, 0.0))
  variance = jnp.exp(posterior.log_variance(sigma, below)) * schedule.scaling(below) ** 2
  np.testing.assert_allclose(variance, classic(TABLES[name])["variance"], rtol=5e-4)
  larger = jnp.exp(posterior.larger_log_variance(sigma, below)) * schedule.scaling(below) ** 2
  np.testing.assert_allclose(larger, classic(TABLES[name])["beta"], rtol=5e-4)


@pytest.mark.parametrize("scaling", [schedules.variance_preserving, schedules.variance_exploding, schedules.flow])
def test_bayes_rule_on_a_line(scaling, x64):
  """q(x_next | x, x0) is q(x | x_next) q(x_next | x0), normalised: here by brute force on a fine line."""
  sigma, sigma_next, x0, x = 1.5, 0.6, 0.4, 1.1
  alpha, alpha_next = float(scaling(jnp.asarray(sigma))), float(scaling(jnp.asarray(sigma_next)))
  line = np.linspace(-6, 6, 200001)  # x_next, in the unscaled coordinate
  forward_std = np.sqrt((alpha * sigma) ** 2 - (alpha / alpha_next * alpha_next * sigma_next) ** 2)
  density = scipy.stats.norm.pdf(alpha * x, alpha * line, forward_std) * scipy.stats.norm.pdf(line, x0, sigma_next)
  density /= density.sum()
  mean = (density * line).sum()
  as_array = [jnp.asarray(value) for value in (x0, x, sigma, sigma_next)]
  np.testing.assert_allclose(posterior.mean(*as_array), mean, rtol=1e-7)
  np.testing.assert_allclose(
    np.exp(posterior.log_variance(sigma, sigma_next)), (density * (line - mean) ** 2).sum(), rtol=1e-7
  )
  larger = jnp.exp(posterior.larger_log_variance(jnp.asarray(sigma), jnp.asarray(sigma_next), scaling))
  np.testing.assert_allclose(larger * alpha_next**2, forward_std**2, rtol=1e-9)


def test_interpolation_is_geometric():
  sigma, below = jnp.asarray(2.0), jnp.asarray(1.5)
  ends = [posterior.interpolated_log_variance(f, sigma, below) for f in (0.0, 1.0)]
  np.testing.assert_allclose(ends[0], posterior.log_variance(sigma, below))
  np.testing.assert_allclose(ends[1], posterior.larger_log_variance(sigma, below))
  np.testing.assert_allclose(
    posterior.interpolated_log_variance(0.3, sigma, below), 0.7 * ends[0] + 0.3 * ends[1], rtol=1e-6
  )


def test_kl_against_integration(x64):
  q, p = scipy.stats.norm(0.3, 0.7), scipy.stats.norm(-0.2, 1.1)
  expected = scipy.integrate.quad(lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), -12, 12)[0]
  kl = posterior.normal_kl(0.3, 2 * np.log(0.7), -0.2, 2 * np.log(1.1))
  np.testing.assert_allclose(kl, expected, rtol=1e-8)
  assert posterior.normal_kl(0.3, -1.0, 0.3, -1.0) == 0


@pytest.mark.parametrize("mean", [-1.5, -1.0, 0.004, 0.9])
@pytest.mark.parametrize("std", [0.3, 0.02, 0.003])
def test_likelihood_of_all_256_values_sums_to_one(mean, std, x64):
  values = jnp.arange(256) / 127.5 - 1
  log_likelihood = posterior.discretized_log_likelihood(values, mean, 2 * np.log(std))
  np.testing.assert_allclose(jnp.exp(log_likelihood).sum(), 1, rtol=1e-8)


def test_likelihood_against_scipy(x64):
  values, mean, std = np.arange(256) / 127.5 - 1, 0.1, 0.2
  edges = np.concatenate([[-np.inf], values[1:] - 1 / 255, [np.inf]])
  expected = np.diff(scipy.stats.norm(mean, std).cdf(edges))
  log_likelihood = posterior.discretized_log_likelihood(values, mean, 2 * np.log(std))
  np.testing.assert_allclose(log_likelihood, np.log(expected), rtol=1e-5)


def test_likelihood_in_float32_is_symmetric_in_its_tails():
  values = jnp.asarray([-0.7, 0.7])
  low, high = posterior.discretized_log_likelihood(values, 0.0, 2 * np.log(0.15))
  np.testing.assert_allclose(low, high, rtol=1e-5)


def test_likelihood_gradients_are_finite():
  values = jnp.array([-1.0, -0.5, 0.0, 1.0])
  gradient = jax.grad(lambda m, v: posterior.discretized_log_likelihood(values, m, v).sum(), (0, 1))
  for log_variance in (-20.0, -9.0, 0.0):
    for mean in (-1.0, 0.5, 3.0):
      assert np.all(np.isfinite(gradient(mean, log_variance)))
