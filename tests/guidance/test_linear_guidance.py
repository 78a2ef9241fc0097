"""Guidance that adds predictions: several conditions, projected, perturbed attention, a weaker model; a classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from traced import traced

from diffjax import denoisers, editing, guidance, schedules
from diffjax.arrays import expand
from diffjax.denoised import Denoised
from diffjax.networks import UNet
from diffjax.networks.attention import SelfAttention
from diffjax.networks.layers import Dense, GroupNorm

pytestmark = pytest.mark.slow

MEANS = jnp.array([-1.0, 0.5, 2.0, 0.25])  # of the classes 0..2, and of no class: the last
NULL = {"label": jnp.asarray(3)}
STD = 0.6
LABELS = [{"label": jnp.array(labels)} for labels in ([0, 1, 2], [1, 1, 0])]


class ByClass:
  """The ideal conditional denoiser of Gaussian classes of one std."""

  def __init__(self):
    self.batches = []

  def __call__(self, x, sigma, cond=None, *, key=None):
    self.batches.append((x.shape[0], None if key is None else key.shape[0]))
    return ideal(MEANS[cond["label"]], x, sigma)


def ideal(mean, x, sigma, std=STD):
  variance = expand(jnp.square(sigma), x)
  return (expand(mean, x) * variance + std**2 * x) / (variance + std**2)


def x(num=3):
  return 2 * jax.random.normal(jax.random.key(0), (num, 4, 4, 1))


SIGMA = jnp.array([0.1, 0.8, 5.0])


@pytest.mark.parametrize("scales", [(1.0, 0.0), (1.5, 0.7), (2.0, -1.0), (1.0, jnp.array([0.0, 1.0, -2.0]))])
def test_composed_conditions_are_the_exact_product(scales):
  """p(x) prod_i (p(x | c_i) / p(x))^w_i, of Gaussians of one variance, is one with the mean m + sum_i w_i (m_i - m)."""
  guided = guidance.Composed(ByClass(), NULL, scales)
  mean = MEANS[3] + sum(scale * (MEANS[c["label"]] - MEANS[3]) for scale, c in zip(scales, LABELS))
  np.testing.assert_allclose(guided(x(), SIGMA, LABELS), ideal(mean, x(), SIGMA), atol=2e-6)


def test_one_condition_is_classifier_free_and_all_take_one_call():
  composed = guidance.Composed(ByClass(), NULL, (2.5,))
  expected = guidance.ClassifierFree(ByClass(), NULL, 2.5)(x(), SIGMA, LABELS[0])
  np.testing.assert_allclose(composed(x(), SIGMA, LABELS[:1]), expected, atol=2e-6)
  three = guidance.Composed(ByClass(), NULL, (1.0, 1.0))
  three(x(), SIGMA, LABELS, key=jax.random.split(jax.random.key(0), 3))
  assert three.denoiser.batches == [(9, 9)]
  for cond in (LABELS[:1], LABELS[0], None):
    with pytest.raises(ValueError, match="a sequence of 2 conditions"):
      three(x(), SIGMA, cond)


def test_a_negative_condition_takes_the_place_of_the_null_one():
  guided = guidance.ClassifierFree(ByClass(), LABELS[1], 2.5)
  mean = 2.5 * MEANS[LABELS[0]["label"]] - 1.5 * MEANS[LABELS[1]["label"]]
  np.testing.assert_allclose(guided(x(), SIGMA, LABELS[0]), ideal(mean, x(), SIGMA), atol=4e-6)


def test_projected_guidance_without_its_parts_is_classifier_free():
  guided = guidance.AdaptiveProjected(ByClass(), NULL, 2.5, eta=1.0)
  expected = guidance.ClassifierFree(ByClass(), NULL, 2.5)(x(), SIGMA, LABELS[0])
  np.testing.assert_allclose(guided(x(), SIGMA, LABELS[0]), expected, atol=1e-5)


@pytest.mark.parametrize(("scale", "radius", "eta"), [(7.5, 3.0, 0.0), (4.0, 1e6, 0.3), (4.0, 0.5, 1.0)])
def test_projected_guidance_is_that_of_diffusers(scale, radius, eta):
  torch = pytest.importorskip("torch")
  theirs = pytest.importorskip("diffusers.guiders.adaptive_projected_guidance").normalized_guidance
  guided = guidance.AdaptiveProjected(ByClass(), NULL, scale, radius, eta)
  null = ByClass()(x(), SIGMA, {"label": jnp.full(3, 3)})
  both = [torch.tensor(np.asarray(x0)) for x0 in (ByClass()(x(), SIGMA, LABELS[0]), null)]
  # their "original formulation" leaves out the -1
  expected = theirs(*both, scale - 1, eta=eta, norm_threshold=radius, use_original_formulation=True)
  np.testing.assert_allclose(guided(x(), SIGMA, LABELS[0]), expected, rtol=1e-4, atol=1e-5)


def test_projected_guidance_of_equal_predictions_is_finite():
  guided = guidance.AdaptiveProjected(lambda x, sigma, cond, key: x * 0, NULL, 4.0, 1.0)
  gradient = jax.grad(lambda x: guided(x, SIGMA, LABELS[0]).sum())(x())
  assert np.isfinite(gradient).all() and not guided(x(), SIGMA, LABELS[0]).any()


def test_autoguidance_is_exact_for_gaussians():
  """The stronger model's density over the weaker's: of one variance, the mean goes away from the weak one's."""
  strong, weak = (lambda x, sigma, cond, key, mean=mean: ideal(jnp.asarray(mean), x, sigma) for mean in (1.0, 0.7))
  guided = guidance.AutoGuidance(strong, weak, 3.0)
  np.testing.assert_allclose(guided(x(), SIGMA), ideal(jnp.asarray(1.6), x(), SIGMA), atol=2e-6)
  inside = guidance.AutoGuidance(strong, weak, 3.0, (0.5, 2.0))(x(), SIGMA)
  expected = ideal(jnp.array([1.0, 1.6, 1.0]), x(), SIGMA)
  np.testing.assert_allclose(inside, expected, atol=2e-6)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_the_bayes_classifier_makes_the_conditional_model(scale, x64):
  """Of two Gaussian classes; at scale 1 Bayes' rule is exact, and elsewhere the score is the mixture of the two."""
  means = jnp.array([-1.0, 0.8])

  def logits(x, sigma):
    squares = jnp.square(x[:, None] - means[None, :, None, None, None]).sum((2, 3, 4))
    return -squares / (2 * (sigma**2 + STD**2))[:, None]

  def unconditional(x, sigma, cond=None, *, key=None):
    assert cond is None
    weights = jax.nn.softmax(logits(x, sigma))
    return sum(expand(weights[:, i], x) * ideal(means[i], x, sigma) for i in range(2))

  label = {"label": jnp.array([0, 1, 1])}
  guided = guidance.Classifier(unconditional, logits, scale)(x().astype(float), SIGMA.astype(float), label)
  conditional = ideal(means[label["label"]], x(), SIGMA)
  expected = scale * conditional + (1 - scale) * unconditional(x(), SIGMA)
  np.testing.assert_allclose(guided, expected, rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def network():
  net = UNet(out_channels=1, width=8, multipliers=(1, 2), blocks_per_level=1, attention_resolutions=(4,), num_groups=2)
  shapes = jax.eval_shape(net.init, jax.random.key(0), x(), SIGMA)
  leaves, tree = jax.tree.flatten(shapes)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  params = tree.unflatten([0.3 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves)])
  return net, params


def test_perturbed_attention_is_per_example_and_in_its_blocks_only(network):
  net, params = network
  apply = jax.jit(lambda net, cond: net.apply(params, x(), SIGMA, cond), static_argnums=0)
  plain = apply(net, None)
  np.testing.assert_allclose(apply(net, {"perturb": jnp.zeros(3, bool)}), plain, rtol=1e-5, atol=1e-6)
  some, every = (apply(net, {"perturb": jnp.array(flags)}) for flags in ([False, True, False], [True] * 3))
  np.testing.assert_allclose(some, jnp.stack([plain[0], every[1], plain[2]]), rtol=1e-4, atol=1e-5)
  assert np.abs(every - plain).max() > 1e-3
  elsewhere = net.clone(perturbed_blocks=("decoder_1_block_0",))
  assert np.abs(apply(elsewhere, {"perturb": jnp.ones(3, bool)}) - every).max() > 1e-3
  nowhere = net.clone(perturbed_blocks=())
  np.testing.assert_allclose(apply(nowhere, {"perturb": jnp.ones(3, bool)}), plain, rtol=1e-5, atol=1e-6)
  with pytest.raises(ValueError, match=r"cond perturb of shape \(3,\)"):
    net.apply(params, x(), SIGMA, {"perturb": True})


def test_with_the_identity_for_attention_each_pixel_keeps_its_own_value():
  module = SelfAttention(num_heads=2, num_groups=2, norm_eps=1e-6, dtype=jnp.float32)
  picture = jax.random.normal(jax.random.key(0), (1, 3, 3, 8))
  params = module.init(jax.random.key(1), picture)
  params = jax.tree.map(lambda p: 0.5 * jax.random.normal(jax.random.key(p.size), p.shape), params)
  part = lambda name, layer, *args: layer.apply({"params": params["params"][name]}, *args)
  values = part("qkv", Dense(24), part("norm", GroupNorm(2), picture))[..., 16:]
  perturbed = module.apply(params, picture, jnp.array([True]))
  np.testing.assert_allclose(perturbed, picture + part("proj", Dense(8), values), rtol=1e-5, atol=1e-5)
  assert np.abs(perturbed - module.apply(params, picture)).max() > 1e-2


def test_perturbed_attention_guidance_takes_one_call(network):
  net, params = network
  calls = []

  def bound(x, c_noise, cond=None, *, key=None):
    calls.append(x.shape[0])
    return net.apply(params, x, c_noise, cond, key=key)

  denoiser = denoisers.NetworkDenoiser(bound, denoisers.X0(), schedules.SigmaAsTime())
  guided = guidance.PerturbedAttention(denoiser, 2.0)(x(), SIGMA)
  assert calls == [6]
  perturbed = denoiser(x(), SIGMA, {"perturb": jnp.ones(3, bool)})
  expected = denoiser(x(), SIGMA) + 2 * (denoiser(x(), SIGMA) - perturbed)
  np.testing.assert_allclose(guided, expected, rtol=1e-4, atol=1e-4)


def test_perturbed_attention_around_classifier_free_perturbs_the_conditional_prediction_alone():
  def perturbable(x, sigma, cond=None, *, key=None):
    perturb = jnp.asarray(cond.get("perturb", jnp.zeros(x.shape[0])), x.dtype)
    return by_class(x, sigma, cond) * (1 - 0.3 * expand(perturb, x))

  w, s = 2.5, 0.8
  guided = guidance.PerturbedAttention(guidance.ClassifierFree(perturbable, NULL, w), s / w)
  predict = lambda labels, perturb: perturbable(x(), SIGMA, {"label": labels, "perturb": jnp.full(3, perturb)})
  labels = LABELS[0]["label"]
  null, plain, perturbed = predict(jnp.full(3, 3), False), predict(labels, False), predict(labels, True)
  expected = null + w * (plain - null) + s * (plain - perturbed)
  np.testing.assert_allclose(guided(x(), SIGMA, LABELS[0]), expected, rtol=1e-5, atol=1e-5)


class Learned:
  def __call__(self, x, sigma, cond=None, *, key=None):
    return by_class(x, sigma, cond)

  def predict(self, x, sigma, cond=None, *, key=None):
    return Denoised(by_class(x, sigma, cond), variance=expand(0.25 * cond["label"], jnp.ones_like(x)))


@pytest.mark.parametrize(
  ("guided", "cond"),
  [
    (guidance.AdaptiveProjected(Learned(), NULL, 2.0), LABELS[0]),
    (guidance.AutoGuidance(Learned(), lambda x, sigma, cond, key: x, 2.0), LABELS[0]),
    (guidance.Composed(Learned(), NULL, (1.5, 0.5)), LABELS),
    (guidance.PerturbedAttention(Learned(), 2.0), LABELS[0]),
    (editing.Ensemble(Learned(), (Learned(),), (0.5,)), LABELS[0]),
  ],
)
def test_a_learned_variance_passes_through(guided, cond):
  denoised = guided.predict(x(), SIGMA, cond)
  np.testing.assert_array_equal(denoised.x0, guided(x(), SIGMA, cond))
  np.testing.assert_allclose(denoised.variance, expand(0.25 * LABELS[0]["label"], jnp.ones_like(x())))


def test_guidance_nests_and_compiles_once_for_all_scales():
  nested = lambda scale, shrink: guidance.DynamicThreshold(
    guidance.EnergyGuidance(
      guidance.ClassifierFree(jax.tree_util.Partial(by_class), NULL, scale),
      jax.tree_util.Partial(squares, shrink),
    )
  )
  apply = traced(lambda guided, sigma: guided(x(), sigma, LABELS[0]))
  first, second = apply(nested(2.0, 0.1), SIGMA), apply(nested(3.0, 0.2), SIGMA)
  assert apply.traces == 1 and not np.allclose(first, second)


def by_class(x, sigma, cond=None, *, key=None):
  return ideal(MEANS[cond["label"]], x, sigma)


def squares(shrink, x0, key=None):
  return shrink * jnp.square(x0).sum((1, 2, 3))


@pytest.mark.parametrize(
  "guide",
  [
    lambda scale: guidance.ClassifierFree(by_class, NULL, scale),
    lambda scale: guidance.AdaptiveProjected(by_class, NULL, scale),
    lambda scale: guidance.AutoGuidance(by_class, lambda x, sigma, cond, key: 0.5 * x, scale),
    lambda scale: guidance.PerturbedAttention(by_class, scale),
    lambda scale: guidance.Composed(by_class, NULL, (scale,)),
  ],
)
def test_a_scale_may_be_a_function_of_sigma(guide):
  """At each level it is the guidance of that number; a number is a leaf, so that others compile nothing anew."""
  falling = jax.tree_util.Partial(lambda sigma: 4 / (1 + sigma))
  cond = [LABELS[0]] if isinstance(guide(1.0), guidance.Composed) else LABELS[0]
  for sigma in (jnp.asarray(1.0), jnp.array([0.0, 1.0, 3.0])):
    np.testing.assert_allclose(guide(falling)(x(), sigma, cond), guide(4 / (1 + sigma))(x(), sigma, cond), rtol=1e-6)
