import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffjax import noise_levels, randomness, schedules

NUM = 4096
# the largest distance that 4096 draws show once in 1000 times (Kolmogorov-Smirnov)
CRITICAL = scipy.stats.kstwo(NUM).ppf(0.999)
flow = schedules.RectifiedFlow()

DISTRIBUTIONS = {
  "log_normal": (noise_levels.LogNormal(-1.0, 1.4), np.log, scipy.stats.norm(-1.0, 1.4).cdf),
  "logit_normal": (
    noise_levels.LogitNormal(flow, 0.3, 0.8),
    lambda sigma: np.log(sigma),  # logit t = log(t / (1 - t)) = log sigma
    scipy.stats.norm(0.3, 0.8).cdf,
  ),
  "uniform_time": (
    noise_levels.UniformTime(flow),
    lambda sigma: sigma / (1 + sigma),
    scipy.stats.uniform(1e-3, 0.999).cdf,
  ),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("source", ["iid", "stratified"])
def test_distribution(name, source):
  levels, transform, cdf = DISTRIBUTIONS[name]
  if source == "iid":
    u = randomness.uniform(jax.random.split(jax.random.key(1), NUM))
  else:
    u = randomness.stratified(jax.random.key(1), jnp.arange(NUM), NUM)
  statistic = scipy.stats.ks_1samp(transform(np.asarray(levels(u), np.float64)), cdf).statistic
  assert statistic < (CRITICAL if source == "iid" else 1.1 / NUM)


def test_uniform_time_visits_each_step_equally():
  schedule = schedules.linear(10)
  sigma = noise_levels.UniformTime(schedule)(randomness.stratified(jax.random.key(0), jnp.arange(1000), 1000))
  t = np.asarray(schedule.t(sigma))
  np.testing.assert_allclose(t, np.round(t), atol=1e-3)
  np.testing.assert_array_equal(np.bincount(np.round(t).astype(int)), np.full(10, 100))


def test_a_shifted_discrete_schedule_keeps_to_its_steps():
  shifted = schedules.Shifted(schedules.linear(10), 2.0)
  sigma = noise_levels.UniformTime(shifted)(jnp.linspace(0.01, 0.99, 50))
  assert len(np.unique(sigma)) == 10


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_ends_of_the_unit_interval_are_finite(name):
  sigma = DISTRIBUTIONS[name][0](jnp.array([0.0, np.finfo(np.float32).tiny, 1.0]))
  assert np.all(np.isfinite(sigma)) and np.all(sigma > 0)
