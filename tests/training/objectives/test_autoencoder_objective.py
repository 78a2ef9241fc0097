"""The autoencoder's objective against what its terms are by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import randomness, struct
from diffjax.networks import ImageEncoder, ImageFeatures
from diffjax.networks.autoencoder import Gaussian
from diffjax.networks.image_features import prepare
from diffjax.training.objectives.autoencoder import AutoencoderObjective, perceptual, psnr


@struct.dataclass
class Averaging:
  """Latents are pixels with a given deviation; the decoder adds `params`."""

  log_variance: float = -2.0

  def apply(self, params, x, method):
    if method == "decode":
      return x + params
    return Gaussian(x, jnp.full_like(x, self.log_variance))


def batch(num=4):
  image = jax.random.randint(jax.random.key(1), (num, 4, 6, 3), 0, 256).astype(jnp.uint8)
  return {"image": image, "index": jnp.arange(num)}


def test_held_out_loss_is_l1_plus_l2_plus_weighted_divergence():
  objective = AutoencoderObjective(0.5, module=Averaging(), train=False)
  losses, metrics = objective(0.25, batch(), jax.random.key(0))
  images = batch()["image"] / 127.5 - 1
  kl = 0.5 * (images**2 + np.exp(-2) - 1 + 2).sum(axis=(1, 2, 3)) / images[0].size
  np.testing.assert_allclose(losses, 0.25 + 0.25**2 + 0.5 * kl, rtol=1e-5)
  np.testing.assert_allclose(metrics["psnr"], 10 * np.log10(4 / 0.25**2), rtol=1e-5)
  np.testing.assert_allclose(metrics["kl"], kl, rtol=1e-5)


def test_training_decodes_a_sample_of_each_examples_own():
  objective = AutoencoderObjective(0.0, module=Averaging(log_variance=2 * np.log(0.1)))
  losses, _ = objective(0.0, batch(64), jax.random.key(0))
  # the error is 0.1 times standard normal noise
  np.testing.assert_allclose(losses.mean(), 0.1 * np.sqrt(2 / np.pi) + 0.01, rtol=0.02)
  part = {name: values[10:20] for name, values in batch(64).items()}
  np.testing.assert_allclose(objective(0.0, part, jax.random.key(0))[0], losses[10:20], rtol=1e-5)
  assert not np.allclose(objective(0.0, batch(64), jax.random.key(1))[0], losses)


def test_flips_in_training_only():
  class Blind(Averaging):
    def apply(self, params, x, method):
      return jnp.zeros_like(x) if method == "decode" else Gaussian(x[:, :, :1], jnp.full_like(x[:, :, :1], -30.0))

  image = jnp.concatenate([jnp.zeros((32, 4, 1, 3)), jnp.ones((32, 4, 1, 3))], axis=2)
  objective = AutoencoderObjective(1.0, module=Blind(), flip=True)
  given = {"image": image, "index": jnp.arange(32)}
  kl = objective(0.0, given, jax.random.key(0))[1]["kl"]
  assert len(np.unique(np.round(kl, 3))) == 2  # the first column is dark or bright
  assert len(np.unique(objective.replace(train=False)(0.0, given, jax.random.key(0))[1]["kl"])) == 1


@pytest.mark.parametrize(("error", "db"), [(4.0, 0.0), (0.04, 20.0), (4e-4, 40.0)])
def test_psnr(error, db):
  np.testing.assert_allclose(psnr(error), db, atol=1e-4)


def test_a_random_number_belongs_to_an_example():
  keys = randomness.sample_keys(jax.random.key(0), 5)
  z = Gaussian(jnp.zeros((5, 2, 2, 1)), jnp.zeros((5, 2, 2, 1)))
  np.testing.assert_array_equal(z.sample(keys)[3:4], Gaussian(z.mean[:1], z.log_variance[:1]).sample(keys[3:4]))


@struct.dataclass
class Judge:
  """Logits are the red channel times a parameter."""

  def apply(self, params, x):
    return params["params"] * x[..., :1]


def two_players(weight, params=(0.25, 0.7)):
  own, judge = params
  objective = AutoencoderObjective(0.0, adversarial_weight=weight, module=Shifting(-60.0), discriminator=Judge())
  return objective, {"params": own, "discriminator": judge}


class Shifting(Averaging):
  """As `Averaging`, but its parameter lies under "params", as a network's do."""

  def apply(self, params, x, method):
    return super().apply(params["params"], x, method)


def test_the_discriminator_learns_from_its_own_loss_alone():
  objective, params = two_players(0.5)
  total = lambda params: objective(params, batch(), jax.random.key(0))[0].sum()
  hinge = lambda judge: (
    (jax.nn.relu(1 - judge * red) + jax.nn.relu(1 + judge * (red + 0.25))).mean(axis=(1, 2, 3)).sum()
  )
  red = (batch()["image"] / 127.5 - 1)[..., :1]
  gradient = jax.grad(total)(params)
  np.testing.assert_allclose(gradient["discriminator"], jax.grad(hinge)(0.7), rtol=1e-4)
  # and it moves nothing in the autoencoder
  np.testing.assert_allclose(
    gradient["params"], jax.grad(total)({**params, "discriminator": 0.35})["params"], rtol=1e-4
  )


def test_the_adversarial_gradient_is_a_fraction_of_the_reconstructions():
  objective, params = two_players(0.5)
  plain, _ = two_players(0.0)
  gradient = lambda objective: jax.grad(lambda p: objective(p, batch(1), jax.random.key(0))[0].sum())(params)["params"]
  pixels, reds = 4 * 6 * 3, 4 * 6
  # per pixel: L1 and L2 of an error of 0.25; and where it enters the decoder, a push up of the red channel alone
  pull = np.sqrt(pixels) * (1 + 2 * 0.25) / pixels
  push = np.sqrt(reds) * 0.7 / reds
  np.testing.assert_allclose(gradient(plain), 1.5, rtol=1e-5)
  np.testing.assert_allclose(gradient(objective), 1.5 - 0.5 * pull / push * 0.7, rtol=1e-3)


def test_a_checkpoint_is_judged_by_its_reconstruction_alone():
  objective, params = two_players(0.5)
  losses, metrics = objective.replace(train=False)(params, batch(), jax.random.key(0))
  np.testing.assert_allclose(losses, 0.25 + 0.25**2, rtol=1e-5)
  assert "discriminator" not in metrics and "discriminator" in objective(params, batch(), jax.random.key(0))[1]


def test_perceptual_distance_is_of_unit_hidden_states():
  encoder = ImageEncoder(image_size=8, patch=4, width=8, layers=2, heads=2, features=4)
  params = encoder.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  features = ImageFeatures(params, encoder)
  x, y = jax.random.uniform(jax.random.key(1), (2, 3, 8, 8, 3), minval=-1, maxval=1)
  found = perceptual(features, x, y)
  hidden = [encoder.apply(params, prepare(images, encoder)).hidden for images in (x, y)]
  cosines = [(a * b).sum(-1) / jnp.linalg.norm(a, axis=-1) / jnp.linalg.norm(b, axis=-1) for a, b in zip(*hidden)]
  assert len(cosines) == 3
  np.testing.assert_allclose(found, np.mean([2 - 2 * c.mean(axis=-1) for c in cosines], axis=0), rtol=1e-4)
  np.testing.assert_allclose(perceptual(features, x, x), 0, atol=1e-6)
  module = Shifting(-60.0)
  plain = AutoencoderObjective(0.0, module=module)({"params": 0.25}, {"image": x, "index": jnp.arange(3)}, KEY)[0]
  more = AutoencoderObjective(0.0, 2.0, module=module)
  losses = more({"params": 0.25}, {"image": x, "index": jnp.arange(3)}, KEY, frozen=features)[0]
  np.testing.assert_allclose(losses - plain, 2 * perceptual(features, x, x + 0.25), rtol=1e-3, atol=1e-5)


KEY = jax.random.key(0)
