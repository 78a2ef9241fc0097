"""What the network is shown, and that each example's randomness is its own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Halved

from diffjax import denoisers, from_config, losses, noise_levels, randomness, schedules
from diffjax.codecs import to_float, to_uint8
from diffjax.conditioning import Labels
from diffjax.training.objectives.denoising import DenoisingObjective


@dataclasses.dataclass(frozen=True)
class Recorder:
  """A network that keeps what it is given and answers with zeros."""

  seen: list

  def apply(self, params, x, c_noise, cond, key=None):
    self.seen.append({"x": x, "c_noise": c_noise, "cond": cond, "key": key})
    return jnp.zeros_like(x)

  def __hash__(self):
    return id(self)


def show(batch_size=256, sigma=1e-6, std=0.0, **fields):
  """What a network sees of one batch of pictures with a dark left and a bright right half, and the losses."""
  recorder, schedule, prediction = Recorder([]), schedules.SigmaAsTime(), denoisers.X0()
  levels = noise_levels.LogNormal(mean=float(np.log(sigma)), std=std)
  weight = losses.Simple(prediction, schedule)
  objective = DenoisingObjective(prediction, schedule, levels, weight, module=recorder, batch_size=batch_size, **fields)
  images = np.full((batch_size, 4, 4, 1), 51, np.uint8)
  images[:, :, 2:] = 255
  batch = {
    "image": jnp.asarray(images),
    "label": jnp.arange(batch_size) % 10,
    "index": jnp.arange(batch_size, dtype=jnp.int32),
  }
  loss, metrics = objective(None, batch, jax.random.key(0))
  assert metrics == {}
  return recorder.seen[0], loss


def moved(params):
  """Away from the zeros that a network's outputs start with."""
  return jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(1), p.shape), params)


def test_pixels_and_back():
  pixels = jnp.arange(256, dtype=jnp.uint8)
  np.testing.assert_array_equal(to_uint8(to_float(pixels)), pixels)
  np.testing.assert_allclose(to_float(pixels)[jnp.array([0, 255])], [-1, 1])
  np.testing.assert_array_equal(to_uint8(jnp.array([-3.0, 3.0])), [0, 255])


def test_loss_of_a_network_that_answers_zero():
  seen, loss = show()
  np.testing.assert_allclose(seen["x"][:, 0, :, 0], np.tile([-0.6, -0.6, 1, 1], (256, 1)), atol=1e-4)
  np.testing.assert_allclose(loss, np.full(256, (0.36 + 1) / 2), rtol=1e-4)


def test_noise_has_the_level_it_is_said_to_have():
  clean, _ = show()
  noisy, _ = show(sigma=0.5)
  np.testing.assert_allclose((noisy["x"] - clean["x"]).std(), 0.5, rtol=0.05)


def test_pictures_are_encoded_before_they_are_noised():
  """A codec that keeps every second pixel, doubled."""
  clean, loss = show(codec=Halved())
  np.testing.assert_allclose(clean["x"][:, 0, :, 0], np.tile([-1.2, 2], (256, 1)), atol=1e-4)
  np.testing.assert_allclose(loss, np.full(256, (1.44 + 4) / 2), rtol=1e-4)
  noisy, _ = show(codec=Halved(), sigma=0.5)
  np.testing.assert_allclose((noisy["x"] - clean["x"]).std(), 0.5, rtol=0.05)


def test_half_of_the_pictures_are_mirrored():
  seen, _ = show(flip=True)
  mirrored = np.asarray(seen["x"][:, 0, 0, 0] > 0)
  assert 0.4 < mirrored.mean() < 0.6
  np.testing.assert_allclose(seen["x"][mirrored, :, ::-1].mean(0), seen["x"][~mirrored].mean(0), atol=1e-4)
  held_out, _ = show(flip=True, train=False)
  assert (held_out["x"][:, 0, 0, 0] < 0).all()


def test_share_of_labels_is_dropped():
  seen, _ = show(batch_size=2000, conditioner=Labels(0.2, num_classes=10))
  label = np.asarray(seen["cond"]["label"])
  dropped = label == 10
  assert abs(dropped.mean() - 0.2) < 0.03
  np.testing.assert_array_equal(label[~dropped], (np.arange(2000) % 10)[~dropped])
  for share, expected in ((0.0, np.arange(256) % 10), (1.0, np.full(256, 10))):
    seen, _ = show(conditioner=Labels(share, num_classes=10))
    np.testing.assert_array_equal(seen["cond"]["label"], expected)


def test_network_without_labels_gets_none():
  assert show()[0]["cond"] is None


def test_stratified_levels_share_the_distribution_evenly():
  schedule = schedules.SigmaAsTime()
  quantiles = {}
  for stratified in (True, False):
    seen, _ = show(batch_size=64, sigma=1.0, std=1.0, stratified=stratified)
    quantiles[stratified] = np.sort(jax.scipy.stats.norm.cdf(jnp.log(schedule.sigma(seen["c_noise"]))))
  np.testing.assert_allclose(np.diff(quantiles[True]), np.full(63, 1 / 64), atol=1e-4)
  assert np.diff(quantiles[False]).max() > 2 / 64


@pytest.mark.slow
def test_dropout_is_each_examples_own(tiny):
  """Any part of a batch has the losses it has within the whole, dropout, flips and dropped labels included."""
  config = tiny(label_dropout=0.5)
  config.model.update(dropout=0.5, num_classes=10)
  config.data.flip = True
  objective = from_config.objective(config)
  params = moved(from_config.initial_state(config).params)
  images = jax.random.randint(jax.random.key(2), (16, 8, 8, 1), 0, 256).astype(jnp.uint8)
  batch = {"image": images, "label": jnp.arange(16) % 10, "index": jnp.arange(16)}
  whole, _ = objective(params, batch, jax.random.key(0))
  part, _ = objective(params, jax.tree.map(lambda a: a[5:9], batch), jax.random.key(0))
  np.testing.assert_allclose(part, whole[5:9], rtol=2e-5)
  off, _ = objective.replace(train=False)(params, batch, jax.random.key(0))
  assert not np.allclose(off, whole, rtol=1e-2)


def test_same_index_same_noise_whatever_the_batch_mates():
  numbers = randomness.normal(randomness.fold_in_each(jax.random.key(0), jnp.array([3, 7])), (2, 5))
  alone = randomness.normal(randomness.fold_in_each(jax.random.key(0), jnp.array([7])), (1, 5))
  np.testing.assert_array_equal(numbers[1:], alone)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["simple", "snr", "min_snr", "edm", "p2", "sigmoid"])
def test_every_loss_gives_finite_gradients(tiny, loss):
  config = tiny()
  config.loss.name = loss
  batch = {"image": jnp.zeros((4, 8, 8, 1), jnp.uint8), "index": jnp.arange(4)}
  state = from_config.initial_state(config)
  mean = lambda params: from_config.objective(config)(params, batch, jax.random.key(0))[0].mean()
  value, grads = jax.value_and_grad(mean)(state.params)
  assert np.isfinite(value) and all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.slow
def test_hybrid_teaches_the_variance(tiny):
  config = tiny(bound_weight=1.0)
  config.model.learned_variance = True
  config.prediction = {"name": "eps"}
  config.schedule.name = "linear"
  config.noise_levels = {"name": "uniform_time"}
  from_config.check(config)
  batch = {"image": jnp.full((8, 8, 8, 1), 77, jnp.uint8), "index": jnp.arange(8)}
  params = from_config.initial_state(config).params
  grads = {}
  for weight in (0.0, 1.0):
    config.train.bound_weight = weight
    mean = lambda p: from_config.objective(config)(p, batch, jax.random.key(0))[0].mean()
    grads[weight] = jax.grad(mean)(params)["params"]["conv_out"]
  for before, after in zip(jax.tree.leaves(grads[0.0]), jax.tree.leaves(grads[1.0])):
    np.testing.assert_array_equal(before[..., 1:], 0)
    assert np.abs(after[..., 1:]).max() > 0
    np.testing.assert_allclose(before[..., :1], after[..., :1], rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_bfloat16_computes_but_parameters_and_loss_stay_float32(tiny):
  config = tiny()
  batch = {"image": jax.random.randint(jax.random.key(1), (8, 8, 8, 1), 0, 256, jnp.uint8), "index": jnp.arange(8)}
  params = moved(from_config.initial_state(config).params)
  values = {}
  for dtype in ("float32", "bfloat16"):
    config.model.dtype = dtype
    value, grads = jax.value_and_grad(lambda p: from_config.objective(config)(p, batch, jax.random.key(0))[0].mean())(
      params
    )
    assert value.dtype == jnp.float32 and {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    values[dtype] = value, jax.tree.leaves(grads)[-1]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.05, atol=0.02), *values.values())
  assert not np.array_equal(values["float32"][1], values["bfloat16"][1])


@pytest.mark.slow
def test_the_network_is_told_of_the_augmentation_it_sees():
  seen, _ = show(augment=1.0)
  assert seen["cond"]["augment"].shape == (256, 9)
  plain, _ = show()
  told = np.asarray(seen["cond"]["augment"])
  assert np.abs(told).max(1).min() > 0 and not np.allclose(seen["x"], plain["x"], atol=0.1)
  assert show(augment=1.0, train=False)[0]["cond"] is None
  labelled, _ = show(augment=0.5, conditioner=Labels(num_classes=10))
  assert set(labelled["cond"]) == {"augment", "label"}
