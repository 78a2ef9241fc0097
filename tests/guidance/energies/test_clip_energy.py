"""CLIP guidance: distances by their formulas, views added up, and a linear "CLIP" against the exact posterior."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian

import diffjax
from diffjax import from_config, grids, guidance, networks, randomness, samplers
from diffjax.guidance.energies.clip import spherical

TOWER = networks.ImageEncoder(image_size=8, patch=4, width=16, layers=1, heads=2, features=6)
IMAGES = jax.random.uniform(jax.random.key(1), (5, 8, 8, 1), minval=-1.0)
KEYS = randomness.sample_keys(jax.random.key(2), 5)
TARGETS = networks.unit(jax.random.normal(jax.random.key(3), (3, 6)))


@pytest.fixture(scope="module")
def features():
  params = TOWER.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  return networks.ImageFeatures(params, TOWER)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Linear:
  """A "CLIP" whose features are the picture's mean alone: its cosine with the target 1 is linear."""

  def __call__(self, images):
    return images.mean((1, 2, 3))[:, None]


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_a_towers_channels_need_not_be_the_pictures(channels):
  """Gray becomes three equal channels, and three become their mean."""
  tower = TOWER.clone(channels=channels)
  features = networks.ImageFeatures(tower.init(jax.random.key(0), jnp.zeros((1, 8, 8, channels))), tower)
  colours = jnp.broadcast_to(IMAGES, (5, 8, 8, 3))
  np.testing.assert_allclose(features(IMAGES), features(colours), atol=1e-5)
  slope = jax.grad(lambda x: features(x)[:, 0].sum())(colours * jnp.array([1.0, 0.5, 0.2])[None, None, None])
  assert np.abs(slope).max() > 0


def test_without_views_at_a_noise_level_there_is_no_guidance(features):
  early = guidance.Cutouts(overview=((6.1, 2),), inner=0, size=8)
  energy = guidance.clip(features, TARGETS, views=early)
  slope = lambda sigma: jax.grad(lambda x: energy.at(jnp.asarray(sigma))(x, KEYS).sum())(IMAGES)
  assert np.abs(slope(7.0)).max() > 0
  np.testing.assert_array_equal(slope(6.0), 0)
  with pytest.raises(ValueError, match="at least one view"):
    guidance.small_views(8, 0)


def test_spherical_is_half_the_squared_angle(x64):
  angles = np.array([0, 1e-9, 1e-3, 0.02, 0.021, 0.5, 2.0, 3.0])
  np.testing.assert_allclose(spherical(jnp.cos(angles)), angles**2 / 2, rtol=1e-6, atol=1e-16)


def test_spherical_has_a_slope_everywhere():
  """d/dc arccos(c)^2 / 2 = -arccos(c) / sqrt(1 - c^2), which is -1 where vectors meet."""
  slope = jax.vmap(jax.grad(spherical))
  np.testing.assert_allclose(slope(jnp.array([1.0, 0.9999999, 0.9999])), -1, atol=1e-3)
  cosines = np.array([0.99, 0.5, -0.9])
  np.testing.assert_allclose(slope(jnp.array(cosines)), -np.arccos(cosines) / np.sqrt(1 - cosines**2), rtol=1e-3)
  assert np.isfinite(slope(jnp.array([-1.0, 1.0001, -1.0001]))).all()


def test_distances_weigh_their_targets(features):
  cosines = np.asarray(features(IMAGES) @ TARGETS.T)
  weights = np.array([2.0, -1.0, 1.0])
  expected = {
    "cosine": ((1 - cosines) * weights / 4).sum(1),
    "spherical": (np.arccos(cosines) ** 2 / 2 * weights / 4).sum(1),
  }
  for distance, value in expected.items():
    energy = guidance.clip(features, TARGETS, weights, distance=distance)
    np.testing.assert_allclose(energy(IMAGES), value, rtol=1e-4)
  shares = guidance.clip(features, TARGETS, [0, 1, -3], distance="softmax", logit_scale=3.0)
  logs = 3 * cosines - np.log(np.exp(3 * cosines).sum(1, keepdims=True))
  np.testing.assert_allclose(shares(IMAGES), (3 * logs[:, 2] - logs[:, 1]) / 4, rtol=1e-4)
  np.testing.assert_allclose(shares.similarity(IMAGES), (cosines[:, 1] - 3 * cosines[:, 2]) / 4, rtol=1e-4)


def with_views(features, count=3, **fields):
  return guidance.clip(features, TARGETS, views=guidance.small_views(8, count, **fields))


@pytest.mark.slow
def test_views_add_up_to_their_mean_and_its_gradient(features):
  energy = with_views(features)

  def written_out(x0):
    views = [energy.views(x0, randomness.fold_in(KEYS, i), i) for i in range(3)]
    return sum(energy.compare(view) for view in views) / 3

  weights = jnp.arange(1.0, 6.0)
  expected, pullback = jax.vjp(written_out, IMAGES)
  value, ours = jax.vjp(lambda x0: energy(x0, KEYS), IMAGES)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_allclose(energy(IMAGES, KEYS), expected, rtol=1e-5)
  np.testing.assert_allclose(ours(weights)[0], pullback(weights)[0], rtol=1e-3, atol=1e-6)
  assert np.abs(pullback(weights)[0]).max() > 1e-3


@pytest.mark.slow
def test_number_of_views_neither_compiles_nor_takes_memory(features):
  traced = []

  @jax.jit
  def slope(energy, x0, keys):
    traced.append(energy)
    return jax.grad(lambda x0: energy(x0, keys).sum())(x0)

  for count in (1, 2, 40):
    assert np.isfinite(slope(with_views(features, count), IMAGES, KEYS)).all()
  assert len(traced) == 1  # one program with room for one view


def test_a_picture_depends_on_its_own_key(features):
  energy = with_views(features)
  np.testing.assert_allclose(energy(IMAGES, KEYS)[2:4], energy(IMAGES[2:4], KEYS[2:4]), rtol=1e-5)
  with pytest.raises(ValueError, match="one key per sample"):
    energy(IMAGES)


def test_one_forward_and_one_backward_pass_of_the_model(features):
  """However many views and prompts: counted where a host callback sees each pass."""
  passes = []

  @jax.custom_vjp
  def counted(x):
    jax.debug.callback(lambda: passes.append("forward"))
    return 0.5 * x

  def backward(_, g):
    jax.debug.callback(lambda: passes.append("backward"))
    return (0.5 * g,)

  counted.defvjp(lambda x: (counted(x), None), backward)
  denoiser = lambda x, sigma, cond=None, *, key=None: counted(x)
  energy = guidance.energies(with_views(features), guidance.penalties.out_of_range, weights=(5.0, 1.0))
  guided = guidance.EnergyGuidance(denoiser, energy)
  moved = jax.jit(lambda x: guided(x, jnp.float32(1.0), key=KEYS))(IMAGES)
  jax.effects_barrier()
  assert passes == ["forward", "backward"]
  assert not np.allclose(moved, 0.5 * IMAGES)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [samplers.DPMpp2M(1.0), samplers.Heun(), samplers.DPMpp2M()])
def test_a_linear_clip_draws_from_the_exact_posterior(sampler, x64):
  """p(x0) exp(-scale (1 - mean of x0)) of N(0.3, 0.5^2) pixels is N(0.3 + 0.25 scale / pixels, 0.5^2): 2 %."""
  data, scale, shape = Gaussian(0.3, 0.5), 6.0, (4000, 2, 2, 1)
  energy = guidance.clip(Linear(), jnp.ones((1, 1)), distance="cosine")
  guided = guidance.EnergyGuidance(data, energy, scale)
  sigmas = diffjax.grids.karras(150, sigma_min=0.005, sigma_max=80.0)
  x = sigmas[0] * jax.random.normal(jax.random.key(0), shape)
  drawn = jax.jit(diffjax.sample)(guided, sampler, x, sigmas, key=jax.random.key(1))
  mean = 0.3 + 0.25 * scale / 4
  assert float(drawn.mean()) == pytest.approx(mean, rel=0.02)
  assert float(drawn.std()) == pytest.approx(0.5, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", from_config.SAMPLERS)
def test_every_sampler_moves_to_the_mean_of_the_posterior(name):
  """As above: guided drawings have a mean higher by 0.25 scale / pixels, to 3 % in 20 steps."""
  options = {"t_min": 0.5, "t_max": 2.0} if name == "restart" else {}
  sampler, sigmas = from_config.SAMPLERS[name](**options), grids.karras(20, 0.02, 20.0)
  energy = guidance.clip(Linear(), jnp.ones((1, 1)), distance="cosine")
  x = sigmas[0] * jax.random.normal(jax.random.key(0), (500, 2, 2, 1))
  draw = jax.jit(
    lambda scale: diffjax.sample(
      guidance.EnergyGuidance(Gaussian(), energy, scale), sampler, x, sigmas, key=jax.random.key(1)
    )
  )
  assert float((draw(6.0) - draw(0.0)).mean()) == pytest.approx(0.25 * 6.0 / 4, rel=0.03)


@pytest.mark.slow
def test_classifier_free_guidance_goes_underneath(features):
  """The prompt's gradient goes through whatever denoiser there is: here one guided by a condition."""
  denoiser = lambda x, sigma, cond=None, *, key=None: x * (0.5 + 0.1 * cond["label"][:, None, None, None])
  free = guidance.ClassifierFree(jax.tree_util.Partial(denoiser), {"label": 0}, 2.0)
  guided = guidance.EnergyGuidance(free, guidance.clip(features, TARGETS), 3.0)
  cond, sigma = {"label": jnp.arange(5)}, jnp.float32(0.5)
  factor = 0.5 + 0.1 * (2.0 * cond["label"])[:, None, None, None]  # null + 2 (cond - null) of a linear model
  slope = jax.grad(lambda x: guidance.clip(features, TARGETS)(factor * x).sum())(IMAGES)
  expected = factor * IMAGES - 3.0 * sigma**2 * slope
  np.testing.assert_allclose(guided(IMAGES, sigma, cond), expected, atol=1e-5)
  assert np.abs(slope).max() > 1e-3


@pytest.mark.parametrize(
  ("targets", "weights", "options", "says"),
  [
    (TARGETS, [1.0], {}, "one weight for each"),
    (jnp.zeros((0, 6)), None, {}, "one weight for each"),
    (TARGETS[0], None, {}, "one weight for each"),
    (TARGETS, [0, 0, 0], {}, "not all of them 0"),
    (TARGETS, [1, np.inf, 0], {}, "finite"),
    (TARGETS, None, {"distance": "angular"}, "choose one of spherical"),
    (TARGETS[:1], None, {"distance": "softmax"}, "softmax needs at least two prompts"),
  ],
)
def test_prompts_that_make_no_energy(targets, weights, options, says):
  with pytest.raises(ValueError, match=says):
    guidance.clip(Linear(), targets, weights, **options)
