"""What a CLIP is trained on: against the loss written out, and on several devices as on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import from_config, noise_levels, randomness
from diffjax.codecs import to_float
from diffjax.losses import contrastive
from diffjax.networks import preprocess
from diffjax.training.objectives.clip import ideal_denoiser


def a_batch(size, seed=0):
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (size, 8, 8, 1), np.uint8)
  labels = rng.integers(0, 10, size).astype(np.int32)
  return {"image": jnp.asarray(images), "label": jnp.asarray(labels), "index": jnp.arange(size, dtype=jnp.int32)}


@pytest.mark.slow
def test_equals_the_loss_written_out(tiny_clip):
  """With one template, and neither shift nor noise, the batch's mean is `clip_loss` of its pictures and captions."""
  config = tiny_clip()
  config.captions.templates, config.data.shift = ("a handwritten {word}",), 0
  objective = from_config.clip.objective(config).replace(train=False)
  params, batch = from_config.clip.initial_params(config, jax.random.key(0)), a_batch(12)
  tokens = from_config.clip.tokenizer(config)(
    [from_config.clip.training_captions(config)[0][i] for i in batch["label"]]
  )
  logits = objective.module.apply(params, preprocess(to_float(batch["image"]), 8), tokens)
  pairs = batch["label"][:, None] == batch["label"][None]
  assert pairs.sum() > 12  # several right pairs
  losses, _ = objective(params, batch, jax.random.key(1))
  assert losses.shape == (12,)
  np.testing.assert_allclose(losses.mean(), contrastive.clip_loss(logits, pairs), rtol=1e-5)


@pytest.mark.slow
def test_sigmoid_is_siglips_loss(tiny_clip):
  config = tiny_clip()
  config.captions.templates, config.model.loss = ("{word}",), "sigmoid"
  objective = from_config.clip.objective(config).replace(train=False)
  params, batch = from_config.clip.initial_params(config, jax.random.key(0)), a_batch(6)
  tokens = from_config.clip.tokenizer(config)(
    [from_config.clip.training_captions(config)[0][i] for i in batch["label"]]
  )
  logits = objective.module.apply(params, preprocess(to_float(batch["image"]), 8), tokens)
  pairs = batch["label"][:, None] == batch["label"][None]
  losses, _ = objective(params, batch, jax.random.key(1))
  np.testing.assert_allclose(losses.mean(), contrastive.siglip_loss(logits, pairs), rtol=1e-5)
  starts = np.exp(params["params"]["logit_scale"]), params["params"]["logit_bias"]
  np.testing.assert_allclose(starts, (10, -10), rtol=1e-5)  # Zhai et al. 2023, section 3.2


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_gradient_over_devices_is_that_of_the_whole_batch(tiny_clip, loss):
  """The mean of the devices' gradients, features gathered among them, by vmap over a named axis."""
  from diffjax.cluster import devices

  config = tiny_clip()
  config.model.loss = loss
  objective = from_config.clip.objective(config)
  params, batch, key = from_config.clip.initial_params(config, jax.random.key(0)), a_batch(8), jax.random.key(2)
  whole = jax.value_and_grad(lambda p: objective(p, batch, key)[0].mean())(params)

  def on_device(params, part):
    mean = lambda p: objective(p, part, key, axis_name="devices")[0].mean()
    return devices.mean(jax.value_and_grad(mean)(params), "devices")

  parts = jax.tree.map(lambda a: a.reshape(4, 2, *a.shape[1:]), batch)
  each = jax.vmap(on_device, (None, 0), axis_name="devices")(params, parts)
  for device in (0, 3):
    jax.tree.map(lambda a, b, i=device: np.testing.assert_allclose(a, b[i], rtol=2e-4, atol=2e-6), whole, each)


def test_augmentation_moves_and_noises(tiny_clip):
  """Half are noised; half are denoised again, at so little noise to themselves among pictures that differ by far."""
  always = noise_levels.LogNormal(mean=-2.0, std=0.0)
  objective, batch = from_config.clip.objective(tiny_clip()).replace(noise_levels=always), a_batch(64)
  keys = randomness.fold_in_each(jax.random.key(0), batch["index"])
  seen = objective._augment(batch["image"], keys)
  still = objective.replace(shift=0)._augment(batch["image"], keys)
  left = (np.asarray(still) - np.asarray(to_float(batch["image"]))).std((1, 2, 3)) * np.exp(2)
  denoised = left < 1e-3
  assert 16 < denoised.sum() < 48
  assert (np.abs(left[~denoised] - 1) < 0.4).all() and 0.95 < left[~denoised].mean() < 1.05
  assert not np.allclose(seen, still, atol=1)
  np.testing.assert_array_equal(objective.replace(train=False)._augment(batch["image"], keys), to_float(batch["image"]))


def test_the_ideal_denoiser_of_two_opposite_pictures():
  """Of v and -v it is v tanh(v.x / sigma^2), at every noise level."""
  v = jnp.asarray([0.9, -0.4, 0.1, -1.0]).reshape(2, 2, 1)
  x, sigma = jax.random.normal(jax.random.key(0), (5, 2, 2, 1)), jnp.asarray([0.05, 0.3, 1.0, 3.0, 80.0])
  along = jnp.tensordot(x, v, axes=3) / jnp.square(sigma)
  expected = jnp.tanh(along)[:, None, None, None] * v[None]
  np.testing.assert_allclose(ideal_denoiser(x, sigma, jnp.stack([v, -v])), expected, rtol=1e-5, atol=1e-6)


def test_a_rows_randomness_is_its_own(tiny_clip):
  """A part of the batch is moved and noised as in the whole."""
  objective = from_config.clip.objective(tiny_clip()).replace(noise_levels=None)
  batch, key = a_batch(8), jax.random.key(3)
  keys = randomness.fold_in_each(key, batch["index"])
  whole, part = objective._augment(batch["image"], keys), objective._augment(batch["image"][2:5], keys[2:5])
  np.testing.assert_array_equal(whole[2:5], part)


def test_temperature_is_kept_below_a_hundred(tiny_clip):
  config = tiny_clip(learning_rate=100.0, warmup_steps=0)
  optimizer = from_config.optimizer(config)
  params = {"params": {"logit_scale": jnp.float32(4.0), "other": jnp.float32(4.0)}}
  grads = jax.tree.map(lambda p: -jnp.ones_like(p), params)
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  moved = jax.tree.map(jnp.add, params, updates)["params"]
  assert float(jnp.exp(moved["logit_scale"])) == pytest.approx(100, rel=1e-5) and moved["other"] > 50


@pytest.mark.parametrize(
  ("change", "says"),
  [
    (lambda c: c.train.update(accumulate=2), "accumulate must be 1"),
    (lambda c: c.model.update(loss="sigmoids"), "did you mean 'sigmoid'"),
    (lambda c: c.captions.update(templates=("a digit",)), "does not name the class"),
    (lambda c: c.captions.update(held_out=("a {digit}",)), "unknown field"),
    (lambda c: c.captions.update(vocab_size=100), "too small"),
    (lambda c: c.model.image.update(heads=3), "does not split into 3 heads"),
    (lambda c: c.model.image.update(patch=0), "must be in"),
    (lambda c: c.model.text.update(depth=3), "no parameter 'depth'"),
    (lambda c: c.data.update(shift=-1), "must be in"),
  ],
)
def test_config_that_cannot_work(tiny_clip, change, says):
  config = tiny_clip()
  change(config)
  with pytest.raises(ValueError, match=says):
    from_config.check(config)
    jax.eval_shape(lambda: from_config.initial_state(config))
