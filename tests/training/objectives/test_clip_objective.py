"""What a CLIP is trained on: against the loss written out, and on several devices as on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import from_config, noise_levels, randomness
from diffjax.codecs import to_float
from diffjax.losses import contrastive
from diffjax.networks import preprocess


def a_batch(size, seed=0):
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (size, 8, 8, 1), np.uint8)
  labels = rng.integers(0, 10, size).astype(np.int32)
  return {"image": jnp.asarray(images), "label": jnp.asarray(labels), "index": jnp.arange(size, dtype=jnp.int32)}


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
  from diffjax.cluster import parallel

  config = tiny_clip()
  config.model.loss = loss
  objective = from_config.clip.objective(config)
  params, batch, key = from_config.clip.initial_params(config, jax.random.key(0)), a_batch(8), jax.random.key(2)
  whole = jax.value_and_grad(lambda p: objective(p, batch, key)[0].mean())(params)

  def on_device(params, part):
    mean = lambda p: objective(p, part, key, axis_name="devices")[0].mean()
    return parallel.mean(jax.value_and_grad(mean)(params), "devices")

  parts = jax.tree.map(lambda a: a.reshape(4, 2, *a.shape[1:]), batch)
  each = jax.vmap(on_device, (None, 0), axis_name="devices")(params, parts)
  for device in (0, 3):
    jax.tree.map(lambda a, b, i=device: np.testing.assert_allclose(a, b[i], rtol=2e-4, atol=2e-6), whole, each)


def test_augmentation_moves_and_noises(tiny_clip):
  always = noise_levels.LogNormal(mean=-2.0, std=0.0)
  objective, batch = from_config.clip.objective(tiny_clip()).replace(noise_levels=always), a_batch(64)
  keys = randomness.fold_in_each(jax.random.key(0), batch["index"])
  seen = objective._augment(batch["image"], keys)
  still = objective.replace(shift=0)._augment(batch["image"], keys)
  x0 = np.asarray(to_float(batch["image"]))
  noise = np.asarray(still) - x0
  left, stds = noise.std((1, 2, 3)), np.exp(-2)
  assert (np.abs(left / stds - 1) < 0.4).all() and 0.9 < left[left > stds].mean() / stds < 1.3
  centred = x0 - x0.mean(0)
  shrinks = ((np.asarray(still) - x0.mean(0)) * centred).sum((1, 2, 3)) / np.square(centred).sum((1, 2, 3))
  half_denoised = shrinks < 1 - 0.5 * stds**2 / (stds**2 + x0.var(0).mean())
  assert 16 < half_denoised.sum() < 48
  assert not np.allclose(seen, still, atol=1)
  np.testing.assert_array_equal(objective.replace(train=False)._augment(batch["image"], keys), to_float(batch["image"]))


def test_half_denoised_is_the_posterior_mean_of_normal_pictures():
  """Least squares of x0 on x, for pictures drawn from a normal distribution, gives the same shrinkage."""
  from diffjax.training.objectives.clip import _half_denoised

  key_x0, key_noise = jax.random.split(jax.random.key(0))
  x0 = 0.3 + 0.5 * jax.random.normal(key_x0, (20000, 2, 2, 1))
  x = x0 + 0.7 * jax.random.normal(key_noise, x0.shape)
  slope, constant = np.polyfit(np.ravel(x), np.ravel(x0), 1)
  found = _half_denoised(x, x0, jnp.full(20000, 0.7), None)
  np.testing.assert_allclose(found, constant + slope * x, atol=0.02)


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
    (lambda c: c.model.update(loss="sigmoids"), "Did you mean 'sigmoid'"),
    (lambda c: c.captions.update(templates=("a digit",)), "says nothing of the class"),
    (lambda c: c.captions.update(held_out=("a {digit}",)), "not known"),
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
