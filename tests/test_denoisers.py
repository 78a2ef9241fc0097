import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from oracles import Gaussian

from diffjax import denoisers, schedules
from diffjax.arrays import expand

VP, VE, FLOW = schedules.VP(), schedules.VE(), schedules.RectifiedFlow()
NOT_TO_NOISE = schedules.RectifiedFlow(t_max=0.99)
PREDICTIONS = {
  "eps": denoisers.Eps(),
  "x0": denoisers.X0(),
  "v": denoisers.V(),
  "flow": denoisers.Flow(),
  "score": denoisers.Score(),
  "edm": denoisers.EDM(0.5),
}


def ideal_output(name, x0, noise, sigma, schedule):
  """What a perfect network outputs, by the words of each paper."""
  alpha = expand(schedule.scaling(sigma), x0)
  sigma = expand(sigma, x0)
  alpha_vp = 1 / np.sqrt(1 + sigma**2)
  return {
    "eps": noise,
    "x0": x0,
    "v": alpha_vp * noise - alpha_vp * sigma * x0,
    "flow": noise - x0,
    "score": -noise / (alpha * sigma),
    # Karras et al. 2022, eq. 8: the target of F
    "edm": (x0 - 0.25 / (sigma**2 + 0.25) * (x0 + sigma * noise)) * np.sqrt(sigma**2 + 0.25) / (sigma * 0.5),
  }[name]


def draw(num=6, dtype=jnp.float32):
  return (jax.random.normal(key, (num, 3, 3, 2), dtype) for key in jax.random.split(jax.random.key(0)))


@pytest.mark.parametrize("schedule", [VP, VE, FLOW], ids=["vp", "ve", "flow"])
@pytest.mark.parametrize("name", PREDICTIONS)
@pytest.mark.parametrize("scalar", [True, False], ids=["sigma []", "sigma [B]"])
def test_ideal_output_gives_back_x0(name, schedule, scalar):
  x0, noise = draw()
  sigma = jnp.asarray(0.7) if scalar else jnp.array([0.03, 0.2, 0.7, 2.0, 9.0, 40.0])
  network = lambda x, c_noise, cond, key: ideal_output(name, x0, noise, sigma, schedule)
  if name in ("eps", "score") and schedule is FLOW:
    with pytest.raises(ValueError, match="does not determine x0 where the schedule ends in pure noise"):
      denoisers.NetworkDenoiser(network, PREDICTIONS[name], schedule)
    schedule = NOT_TO_NOISE
  denoiser = denoisers.NetworkDenoiser(network, PREDICTIONS[name], schedule)
  predicted = denoiser(x0 + expand(sigma, x0) * noise, sigma)
  np.testing.assert_allclose(predicted, x0, atol=3e-5 if scalar else 2e-4)


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(PREDICTIONS, 2)))
def test_convert_between_all_pairs(source, target, x64):
  x0, noise = draw(dtype=jnp.float64)
  sigma = jnp.array([0.002, 0.2, 0.7, 2.0, 80.0, 1e5])
  for schedule in (VP, FLOW):
    output = ideal_output(source, x0, noise, sigma, schedule)
    x = x0 + expand(sigma, x0) * noise
    converted = denoisers.convert(output, x, sigma, schedule, PREDICTIONS[source], PREDICTIONS[target])
    np.testing.assert_allclose(converted, ideal_output(target, x0, noise, sigma, schedule), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["v", "flow", "edm", "x0"])
@pytest.mark.parametrize("sigma", [1e-3, 0.002, 80.0, schedules.MAX_SIGMA])
def test_float32_resolves_x0_at_both_ends(name, sigma):
  x0, noise = draw()
  output = ideal_output(name, x0, noise, jnp.asarray(sigma), FLOW)
  x0_again = PREDICTIONS[name].to_x0(output, x0 + sigma * noise, jnp.asarray(sigma), FLOW)
  np.testing.assert_allclose(x0_again, x0, atol=5e-6)


def test_edm_input_and_target_have_unit_variance():
  sigma_data = 0.5
  x0, noise = (jax.random.normal(key, (5, 20000, 1, 1)) for key in jax.random.split(jax.random.key(1)))
  x0, sigma = sigma_data * x0, jnp.array([0.002, 0.1, 0.5, 5.0, 80.0])
  edm = denoisers.EDM(sigma_data)
  x = x0 + expand(sigma, x0) * noise
  c_in, c_noise = edm.in_noise(sigma, VE)
  np.testing.assert_allclose((expand(c_in, x) * x).var((1, 2, 3)), 1, rtol=0.04)
  np.testing.assert_allclose(edm.from_x0(x0, x, sigma, VE).var((1, 2, 3)), 1, rtol=0.04)
  np.testing.assert_allclose(c_noise, np.log(sigma) / 4, rtol=1e-6)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_network_sees_its_own_scale_and_time(name):
  seen = {}

  def network(x, c_noise, cond, key):
    seen.update(x=x, c_noise=c_noise)
    return x

  schedule, t = schedules.linear(1000), 123.0
  x0, noise = draw()
  sigma = schedule.sigma(t)
  denoisers.NetworkDenoiser(network, PREDICTIONS[name], schedule, time_scale=2.0)(x0 + sigma * noise, sigma)
  assert seen["c_noise"].shape == (6,)
  if name != "edm":
    np.testing.assert_allclose(seen["x"], schedule.add_noise(x0, noise, t), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(seen["c_noise"], 2 * t, rtol=1e-5)


class Affine(nn.Module):
  """The ideal eps network for Gaussian data, as a Linen module; `dtype` is what it computes in."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x, c_noise, cond=None, *, key=None):
    std = self.param("std", nn.initializers.constant(0.5), ())
    alpha, sigma_t = (expand(level, x) for level in VP.alpha_sigma(c_noise))
    return (sigma_t * x / (sigma_t**2 + alpha**2 * std**2)).astype(self.dtype)


def gaussian_network(dtype=jnp.float32):
  return denoisers.NetworkDenoiser(denoisers.BoundNetwork({"params": {"std": 0.5}}, Affine(dtype)), denoisers.Eps(), VP)


def test_ideal_network_is_the_ideal_denoiser():
  x, _ = draw()
  sigma = jnp.array([0.02, 0.2, 0.7, 2.0, 9.0, 40.0])
  np.testing.assert_allclose(gaussian_network()(x, sigma), Gaussian(0.0, 0.5)(x, sigma), atol=3e-4)


def test_jit_vmap_and_grad():
  denoiser, (x, _) = gaussian_network(), draw()
  sigma = jnp.array([0.02, 0.2, 0.7, 2.0, 9.0, 40.0])
  expected = denoiser(x, sigma)
  jitted = jax.jit(lambda denoiser, x, sigma: denoiser(x, sigma))
  np.testing.assert_allclose(jitted(denoiser, x, sigma), expected, atol=1e-5)
  one = lambda x, sigma: denoiser(x[None], sigma[None])[0]
  np.testing.assert_allclose(jax.vmap(one)(x, sigma), expected, atol=1e-5)
  gradient = jax.grad(lambda denoiser: denoiser(x, sigma).sum())(denoiser)
  # d/dstd of std^2 x / (sigma^2 + std^2)
  s = expand(sigma, x)
  expected = jnp.sum(2 * 0.5 * s**2 * x / (s**2 + 0.25) ** 2)
  np.testing.assert_allclose(gradient.network.params["params"]["std"], expected, rtol=1e-2)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_x0_is_float32_whatever_the_network_and_x_are(dtype):
  x, _ = draw()
  assert gaussian_network(dtype)(x, jnp.asarray(0.5)).dtype == jnp.float32
  assert gaussian_network(dtype)(x.astype(jnp.bfloat16), jnp.full(6, 0.5)).dtype == jnp.float32


@pytest.mark.parametrize("schedule", [VP, schedules.linear(), NOT_TO_NOISE], ids=["vp", "linear", "flow"])
def test_x64_does_not_widen_float32(schedule, x64):
  x = jnp.ones((2, 3), jnp.float32)

  def network(x, c_noise, cond, key):
    assert (x.dtype, c_noise.dtype) == (jnp.float32, jnp.float32)
    return x

  for prediction in PREDICTIONS.values():
    assert denoisers.NetworkDenoiser(network, prediction, schedule)(x, jnp.asarray(0.5)).dtype == jnp.float32


def test_learned_variance_comes_behind_the_channels():
  network = lambda x, c_noise, cond, key: jnp.concatenate([x, jnp.full_like(x, 0.5)], -1)
  x, _ = draw()
  denoiser = denoisers.NetworkDenoiser(network, denoisers.X0(), VE)
  denoised = denoiser.predict(x, jnp.asarray(1.0))
  np.testing.assert_array_equal(denoised.x0, x)
  np.testing.assert_array_equal(denoised.variance, jnp.full_like(x, 0.75))
  plain = denoisers.NetworkDenoiser(lambda x, c_noise, cond, key: x, denoisers.X0(), VE)
  assert plain.predict(x, jnp.asarray(1.0)).variance is None


def test_only_training_hands_over_keys():
  keys = jax.random.split(jax.random.key(0), 6)
  given = []
  network = lambda x, c_noise, cond, key: (given.append(key), x)[1]
  x, _ = draw()
  denoisers.NetworkDenoiser(network, denoisers.X0(), VE)(x, 1.0, key=keys)
  denoisers.NetworkDenoiser(network, denoisers.X0(), VE, train=True)(x, 1.0, key=keys)
  assert given[0] is None and given[1] is keys
