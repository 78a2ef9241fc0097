"""CLIP's towers by what defines them, and the published sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.networks import CLIP, PUBLISHED_CLIP, ImageEncoder, TextEncoder, unit
from diffjax.networks.attention import explicit_attention
from diffjax.networks.transformer import ACTIVATIONS

SMALL = dict(width=16, layers=2, heads=2, features=12)
SIGLIP = dict(width=16, layers=1, heads=2, activation="gelu_tanh")
TEXT = TextEncoder(vocab_size=30, context=7, **SMALL)
IMAGE = ImageEncoder(image_size=8, patch=4, **SMALL)

# openai/CLIP, open_clip and google's SigLIP, each with its released weights
PARAMETERS = {
  "vit_b_32": 151_277_313,
  "vit_b_16": 149_620_737,
  "vit_l_14": 427_616_513,
  "vit_l_14_336": 427_944_193,
  "openclip_vit_b_32": 151_277_313,
  "openclip_vit_b_16": 149_620_737,
  "openclip_vit_l_14": 427_616_513,
  "openclip_vit_h_14": 986_109_441,
  "openclip_vit_bigg_14": 2_539_567_105,
  "siglip_base_16_224": 203_155_970,
  "siglip_large_16_256": 652_150_786,
  "siglip_so400m_14_384": 877_960_498,
}


@pytest.mark.parametrize(
  "name", [name if name == "vit_b_32" else pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED_CLIP]
)
def test_published_parameter_counts(name):
  model = CLIP(**PUBLISHED_CLIP[name])
  images = jax.ShapeDtypeStruct((1, *(model.image.image_size,) * 2, 3), jnp.float32)
  tokens = jax.ShapeDtypeStruct((1, model.text.context), jnp.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images, tokens)
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == PARAMETERS[name]


def parameters(module, *inputs):
  """Random ones, none of them trivial, without compiling the initialisers."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda a: (0.3 * rng.normal(size=a.shape)).astype(np.float32), shapes)


TOKENS = np.array([[28, 3, 5, 29, 29, 29, 29], [28, 4, 9, 2, 29, 0, 0]], np.int32)
IMAGES = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def text_params():
  return parameters(TEXT, TOKENS)


@pytest.fixture(scope="module")
def image_params():
  return parameters(IMAGE, IMAGES)


def test_text_attention_is_causal(text_params):
  encode = jax.jit(TEXT.apply)
  changed = TOKENS.copy()
  changed[:, 5] = 7
  before, after = encode(text_params, TOKENS), encode(text_params, changed)
  for a, b in zip(before.hidden, after.hidden):
    np.testing.assert_array_equal(a[:, :5], b[:, :5])
  assert all(np.abs(a - b)[:, 6].max() > 1e-3 for a, b in zip(before.hidden[1:], after.hidden[1:]))
  np.testing.assert_array_equal(before.features, after.features)
  shorter = encode(text_params, TOKENS[:, :5])
  np.testing.assert_allclose(shorter.features, before.features, atol=1e-6)


def test_hidden_states_and_poolings(text_params):
  encoded = TEXT.apply(text_params, TOKENS)
  assert [a.shape for a in encoded.hidden] == [(2, 7, 16)] * 3
  table, positions = text_params["params"]["tokens"], text_params["params"]["positions"]
  np.testing.assert_allclose(encoded.hidden[0], table[TOKENS] + positions[None], atol=1e-6)
  np.testing.assert_array_equal(encoded.pooled, encoded.last[[0, 1], [3, 4]])
  for pooling, places in dict(highest=[3, 4], eos=[2, 0], last=[6, 6]).items():
    tower = TEXT.clone(pooling=pooling, eos_id=5)
    np.testing.assert_array_equal(tower.apply(text_params, TOKENS).pooled, encoded.last[[0, 1], places])
  bare = TEXT.clone(features=None).apply(text_params, TOKENS)
  np.testing.assert_array_equal(bare.features, encoded.pooled)


def test_one_layer_against_its_definition(text_params):
  """Float64, from the first hidden state to the second."""
  encoded = TEXT.apply(text_params, TOKENS)
  p = {
    key.removeprefix("layer_0_"): jax.tree.map(np.float64, value)
    for key, value in text_params["params"]["transformer"].items()
    if key.startswith("layer_0_")
  }
  dense = lambda x, d: x @ d["kernel"] + d["bias"]

  def norm(x, n):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * n["scale"] + n["bias"]

  x = np.float64(encoded.hidden[0])
  q, k, v = np.split(dense(norm(x, p["norm_0"]), p["attention"]["qkv"]), 3, axis=-1)
  q, k, v = (a.reshape(2, 7, 2, 8) for a in (q, k, v))
  scores = np.einsum("blhd,bmhd->bhlm", q, k) / np.sqrt(8)
  weights = np.exp(scores) * np.tri(7)
  weights /= weights.sum(-1, keepdims=True)
  x = x + dense(np.einsum("bhlm,bmhd->blhd", weights, v).reshape(2, 7, 16), p["attention"]["proj"])
  h = dense(norm(x, p["norm_1"]), p["mlp"]["dense_0"])
  x = x + dense(h / (1 + np.exp(-1.702 * h)), p["mlp"]["dense_1"])
  np.testing.assert_allclose(encoded.hidden[1], x, atol=1e-5)


def test_patches_are_a_strided_convolution(image_params):
  p = image_params["params"]
  encoded = IMAGE.clone(layers=0).apply({"params": {k: v for k, v in p.items() if k != "transformer"}}, IMAGES)
  patches = jax.lax.conv_general_dilated(
    IMAGES, p["patch_kernel"], (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  x = np.concatenate([np.broadcast_to(p["class_token"], (2, 1, 16)), patches.reshape(2, 4, 16)], 1) + p["positions"]
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
  np.testing.assert_allclose(encoded.hidden[0], x * p["norm_in"]["scale"] + p["norm_in"]["bias"], atol=1e-5)


def test_pixels_beyond_the_last_whole_patch_are_not_read(image_params):
  wider = IMAGE.clone(image_size=10)
  images = np.pad(IMAGES, ((0, 0), (0, 2), (0, 2), (0, 0)), constant_values=9)
  features = wider.apply(image_params, images).features
  np.testing.assert_array_equal(features, IMAGE.apply(image_params, IMAGES).features)


@pytest.mark.slow
def test_bfloat16_computation_keeps_float32_parameters(image_params, text_params):
  for tower, params, inputs in ((IMAGE, image_params, IMAGES), (TEXT, text_params, TOKENS)):
    half = tower.clone(dtype=jnp.bfloat16)
    shapes = jax.eval_shape(half.init, jax.random.key(0), inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    got, expected = half.apply(params, inputs), tower.apply(params, inputs)
    assert got.features.dtype == jnp.bfloat16 and {a.dtype for a in got.hidden} == {jnp.dtype("bfloat16")}
    cosine = np.sum(unit(got.features) * unit(expected.features), axis=-1)
    assert (cosine > 0.999).all() and not np.array_equal(got.features, expected.features)


def test_similarity_is_a_scaled_cosine_with_a_bias():
  a, b = np.random.default_rng(2).normal(size=(2, 3, 12))
  cosines = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
  params = {"params": {"logit_scale": jnp.float32(1.5), "logit_bias": jnp.float32(-9)}}
  similarity = lambda model: model.apply(params, jnp.float32(a), jnp.float32(b), method="similarity")
  np.testing.assert_allclose(similarity(CLIP(IMAGE, TEXT)), np.exp(1.5) * cosines, atol=1e-5)
  np.testing.assert_allclose(similarity(CLIP(IMAGE, TEXT, bias=-10.0)), np.exp(1.5) * cosines - 9, atol=1e-5)


@pytest.mark.slow
def test_logits_of_siglip_are_the_similarity_of_its_features():
  image = ImageEncoder(image_size=8, patch=4, pooling="attention", **SIGLIP)
  text = TextEncoder(vocab_size=30, context=7, pooling="last", causal=False, features=16, **SIGLIP)
  model = CLIP(image, text, bias=-10.0)
  params = parameters(model, IMAGES, TOKENS)
  a = model.apply(params, IMAGES, method="encode_image")
  b = model.apply(params, TOKENS, method="encode_text")
  assert a.hidden[0].shape == (2, 4, 16) and a.features.shape == b.features.shape == (2, 16)
  expected = model.apply(params, a.features, b.features, method="similarity")
  np.testing.assert_allclose(model.apply(params, IMAGES, TOKENS), expected, atol=1e-5)
  shuffled = model.apply(params, IMAGES[:, ::-1], method="encode_image")
  assert np.abs(shuffled.features - a.features).max() > 1e-3


def test_initial_scale_and_bias():
  model = CLIP(IMAGE.clone(layers=0), TEXT.clone(layers=0), bias=-10.0)
  params = model.init(jax.random.key(0), IMAGES, TOKENS)["params"]
  np.testing.assert_allclose(np.exp(params["logit_scale"]), 1 / 0.07, rtol=1e-6)
  assert params["logit_bias"] == -10
  assert "logit_bias" not in jax.eval_shape(CLIP(IMAGE, TEXT).init, jax.random.key(0), IMAGES, TOKENS)["params"]


@pytest.mark.slow
def test_gradients_of_pictures_are_right(image_params):
  encode = lambda images: (IMAGE.apply(image_params, images).features ** 2).sum()
  direction = np.random.default_rng(3).normal(size=IMAGES.shape).astype(np.float32)
  step = 1e-2
  slope = (encode(IMAGES + step * direction) - encode(IMAGES - step * direction)) / (2 * step)
  np.testing.assert_allclose((jax.grad(encode)(IMAGES) * direction).sum(), slope, rtol=2e-3)


def test_unit_of_nothing_is_nothing_with_a_finite_gradient():
  np.testing.assert_array_equal(unit(jnp.zeros(3)), 0)
  assert np.isfinite(jax.jacobian(unit)(jnp.zeros(3))).all()
  np.testing.assert_allclose(unit(jnp.array([3e-6, 4e-6])), [0.6, 0.8], rtol=1e-6)


def test_causal_attention_is_the_fused_one():
  q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 6, 2, 4))
  fused = jax.nn.dot_product_attention(q, k, v, is_causal=True)
  np.testing.assert_allclose(explicit_attention(q, k, v, causal=True), fused, atol=1e-6)


def test_activations_are_three():
  x = jnp.linspace(-4, 4, 101)
  values = {name: f(x) for name, f in ACTIVATIONS.items()}
  np.testing.assert_allclose(values["quick_gelu"], x / (1 + np.exp(-1.702 * x)), atol=1e-6)
  assert 1e-3 < np.abs(values["quick_gelu"] - values["gelu"]).max() < 0.03
  assert 1e-5 < np.abs(values["gelu_tanh"] - values["gelu"]).max() < 1e-3


def test_an_id_outside_the_vocabulary_is_not_a_number(text_params):
  for wrong in (30, -1):
    tokens = TOKENS.copy()
    tokens[0, 1] = wrong
    features = TEXT.clone(pooling="last").apply(text_params, tokens).features
    assert np.isnan(features[0]).all() and np.isfinite(features[1]).all()


@pytest.mark.parametrize(
  "tower, inputs, words",
  [
    (IMAGE, jnp.zeros((1, 9, 8, 3)), r"\[B, 8, 8, 3\].*preprocess"),
    (IMAGE, jnp.zeros((1, 8, 8, 1)), r"\[B, 8, 8, 3\]"),
    (IMAGE, jnp.zeros((1, 8, 8, 3), jnp.uint8), "floating"),
    (IMAGE.clone(pooling="mean"), jnp.zeros((1, 8, 8, 3)), "pooling 'mean'"),
    (IMAGE.clone(heads=3), jnp.zeros((1, 8, 8, 3)), "3 heads"),
    (TEXT, jnp.zeros((1, 8), jnp.int32), "1 to 7"),
    (TEXT, jnp.zeros((1, 0), jnp.int32), "1 to 7"),
    (TEXT, jnp.zeros((1, 7)), "whole numbers"),
    (TEXT.clone(activation="relu"), jnp.zeros((1, 7), jnp.int32), "activation 'relu'"),
  ],
)
def test_what_does_not_fit_is_said(tower, inputs, words):
  with pytest.raises(ValueError, match=words):
    jax.eval_shape(tower.init, jax.random.key(0), inputs)


def test_features_of_different_lengths():
  with pytest.raises(ValueError, match="different lengths"):
    jax.eval_shape(CLIP(IMAGE.clone(features=8), TEXT).init, jax.random.key(0), IMAGES, TOKENS)
