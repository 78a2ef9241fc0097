"""The autoencoder's objective against what its terms are by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import randomness, struct
from diffjax.networks.autoencoder import Gaussian
from diffjax.training.objectives.autoencoder import AutoencoderObjective, psnr


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
