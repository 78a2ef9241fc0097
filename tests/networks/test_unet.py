"""The U-Net: published sizes, its contract, dropout per example, and every switch of it."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.networks import PUBLISHED, UNet

SMALL = dict(width=8, multipliers=(1, 2), blocks_per_level=1, attention_resolutions=(4,), out_channels=2)
B = 3
X = jax.random.normal(jax.random.key(0), (B, 8, 8, 2))
C_NOISE = jnp.array([0.1, 0.5, 0.9])


def random_params(net, cond=None):
  """Parameters without the zeros of a fresh network, whose output is zero whatever goes in."""
  shapes = jax.eval_shape(net.init, jax.random.key(0), X, C_NOISE, cond)
  leaves, tree = jax.tree.flatten(shapes)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  return tree.unflatten([0.2 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves)])


@functools.partial(jax.jit, static_argnums=0)
def apply(net, params, x, c_noise, cond=None, key=None):
  return net.apply(params, x, c_noise, cond, key=key)


@pytest.mark.parametrize(
  "name, size, count",
  [
    ("ddpm_cifar10", 32, 35_746_307),
    pytest.param("ddpmpp_cifar10", 32, 55_733_891, marks=pytest.mark.slow),
    pytest.param("adm_imagenet64", 64, 295_904_454, marks=pytest.mark.slow),
    ("adm_imagenet256", 256, 553_838_086),
    pytest.param("adm_imagenet256_unconditional", 256, 552_814_086, marks=pytest.mark.slow),
  ],
)
def test_published_parameter_counts(name, size, count):
  net = UNet(**PUBLISHED[name])
  x = jnp.zeros((1, size, size, 3))
  cond = {"label": jnp.zeros((1,), jnp.int32)} if net.num_classes else None
  params = jax.eval_shape(net.init, jax.random.key(0), x, jnp.zeros(()), cond)
  assert sum(math.prod(a.shape) for a in jax.tree.leaves(params)) == count
  y = jax.eval_shape(net.apply, params, x, jnp.zeros(()), cond)
  assert y.shape == (1, size, size, 6 if net.learned_variance else 3) and y.dtype == jnp.float32


@pytest.mark.slow
def test_fresh_network_is_zero_and_scalar_noise_serves_the_batch():
  net = UNet(**SMALL)
  params = net.init(jax.random.key(0), X, jnp.zeros(()))
  assert not jnp.any(apply(net, params, X, C_NOISE))
  params = random_params(net)
  np.testing.assert_array_equal(apply(net, params, X, jnp.float32(0.5)), apply(net, params, X, jnp.full((B,), 0.5)))
  assert not jnp.allclose(apply(net, params, X, C_NOISE), apply(net, params, X, C_NOISE + 1), atol=1e-3)


SWITCHES = {
  "ddpm": dict(resample="convolution"),
  "ddpm++": dict(resample="residual_projected", skip_scale=0.5**0.5, decoder_attention="last"),
  "adm": dict(scale_shift=True, embedding="sinusoidal_adm", head_dim=4),
  "fourier": dict(embedding="fourier", num_heads=2, learned_variance=True),
  "conditional": dict(cross_attention=True, augment_dim=3, num_classes=4),
}


def conditions(net):
  keys = jax.random.split(jax.random.key(2), 2)
  full = {"context": jax.random.normal(keys[0], (B, 5, 6)), "augment": jax.random.normal(keys[1], (B, 3))}
  return full | {"label": jnp.array([0, 4, 2])} if net.num_classes else {}


@pytest.mark.slow
@pytest.mark.parametrize("name", SWITCHES)
def test_examples_do_not_touch_each_other(name):
  net = UNet(**SMALL | SWITCHES[name], dropout=0.2)
  cond, keys = conditions(net), jax.random.split(jax.random.key(3), B)
  params = random_params(net, cond)
  y = apply(net, params, X, C_NOISE, cond, keys)
  one = jax.tree.map(lambda a: a[1:2], (X, C_NOISE, cond, keys))
  np.testing.assert_allclose(apply(net, params, *one), y[1:2], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_remat_changes_no_gradient_and_every_parameter_has_one():
  net = UNet(**SMALL | SWITCHES["conditional"], dropout=0.2)
  cond, keys = conditions(net), jax.random.split(jax.random.key(3), B)
  loss = lambda net, params: jnp.square(net.apply(params, X, C_NOISE, cond, key=keys)).mean()
  params = random_params(net, cond)
  grads = [jax.jit(jax.grad(functools.partial(loss, n)))(params) for n in (net, net.clone(remat=True))]
  assert all(jnp.any(a) for a in jax.tree.leaves(grads[0]))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *grads)


@pytest.mark.slow
def test_dropout_is_on_exactly_with_a_key_and_differs_between_blocks():
  net, keys = UNet(**SMALL, dropout=0.5), jax.random.split(jax.random.key(4), B)
  params = random_params(net)
  plain = apply(UNet(**SMALL), params, X, C_NOISE)
  np.testing.assert_array_equal(apply(net, params, X, C_NOISE), plain)
  np.testing.assert_array_equal(apply(UNet(**SMALL), params, X, C_NOISE, key=keys), plain)
  assert not jnp.allclose(apply(net, params, X, C_NOISE, key=keys), plain, atol=1e-3)
  text = str(jax.make_jaxpr(lambda k: net.apply(params, X, C_NOISE, key=k))(keys))
  blocks = text.count("random_fold_in")
  assert blocks == 2 + 1 + 2 + 2 * 2 + 1  # encoder and its downsampling, middle, decoder and its upsampling


def test_labels_the_null_label_and_a_label_out_of_range():
  net = UNet(**SMALL, num_classes=4)
  params = random_params(net)
  assert params["params"]["embed_label"].shape[0] == 5
  run = lambda *labels: apply(net, params, X, C_NOISE, {"label": jnp.array(labels)})
  np.testing.assert_array_equal(run(4, 4, 4), apply(net, params, X, C_NOISE))
  assert not jnp.allclose(run(0, 1, 2), run(1, 1, 2), atol=1e-3)
  np.testing.assert_array_equal(run(0, 1, 2)[1:], run(3, 1, 2)[1:])
  for wrong in (5, -1):
    y = run(wrong, 1, 2)
    assert jnp.isnan(y[0]).all() and not jnp.isnan(y[1:]).any()


def test_learned_variance_doubles_the_channels():
  net = UNet(**SMALL, learned_variance=True)
  assert apply(net, random_params(net), X, C_NOISE).shape == (B, 8, 8, 4)


@pytest.mark.slow
def test_bfloat16_keeps_float32_parameters_and_noise_levels_and_output():
  net = UNet(**SMALL, dtype=jnp.bfloat16)
  params = net.init(jax.random.key(0), X, C_NOISE)
  assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(params))
  params = random_params(net)
  exact, y = apply(UNet(**SMALL), params, X, C_NOISE), apply(net, params, X, C_NOISE)
  assert y.dtype == jnp.float32
  assert jnp.abs(y - exact).max() < 0.1 * jnp.abs(exact).max()
  # 999 and 998 are the same bfloat16 number; the network must tell them apart.
  assert jnp.abs(apply(net, params, X, jnp.float32(998)) - apply(net, params, X, jnp.float32(999))).max() > 0


@pytest.mark.parametrize(
  "fields, x, c_noise, cond, key, words",
  [
    (dict(resample="bilinear"), X, C_NOISE, None, None, "residual_projected"),
    (dict(embedding="rope"), X, C_NOISE, None, None, "fourier"),
    (dict(num_heads=3), X, C_NOISE, None, None, "num_heads=3"),
    (dict(), X[:, :7], C_NOISE, None, None, "divisible by 2"),
    (dict(), X[0], C_NOISE, None, None, "divisible by 2"),
    (dict(), X, C_NOISE[:2], None, None, r"\(3,\)"),
    (dict(), X, C_NOISE, None, jax.random.key(0), "one dropout key per example"),
    (dict(), X, C_NOISE, {"label": jnp.array([0, 1, 2])}, None, "no labels"),
    (dict(num_classes=4), X, C_NOISE, {"label": jnp.array([0, 1])}, None, r"label.*\(3,\)"),
    (dict(num_classes=4, null_label=False), X, C_NOISE, None, None, "no null label"),
    (dict(cross_attention=True), X, C_NOISE, None, None, "context"),
    (dict(num_classes=4), X, C_NOISE, {"lable": jnp.array([0, 1, 2])}, None, r"'lable' \(did you mean 'label'"),
    (dict(num_classes=4), X, C_NOISE, jnp.array([0, 1, 2]), None, "None or a dict"),
    (dict(num_classes=4), X, C_NOISE, {"label": jnp.array([0.0, 1, 2])}, None, "whole numbers as cond label"),
    (dict(), X[:0], C_NOISE[:0], None, None, "with no empty axis"),
    (dict(), X[..., :0], C_NOISE, None, None, "with no empty axis"),
    (dict(), X[:, :0, :0], C_NOISE, None, None, "with no empty axis"),
    (dict(), X, None, None, None, "c_noise.*got None"),
  ],
)
def test_errors_say_what_was_wrong(fields, x, c_noise, cond, key, words):
  with pytest.raises(ValueError, match=words):
    jax.eval_shape(UNet(**SMALL | fields).init, jax.random.key(0), x, c_noise, cond, key=key)
