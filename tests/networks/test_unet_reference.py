"""The DDPM network against diffusers' UNet2DModel on the same random weights."""

import jax
import numpy as np
import pytest

from diffjax.networks import PUBLISHED, UNet

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusers_unet import convert, reference  # noqa: E402 - after the skips

SMALL = dict(width=32, multipliers=(1, 2, 2), blocks_per_level=1, attention_resolutions=(8,), num_groups=8)


def agree(channels, size, batch, **config):
  torch.manual_seed(0)
  theirs = reference(channels, size=size, **config)
  with torch.no_grad():
    for parameter in theirs.parameters():  # norms and biases start trivial: move them, so that a mix-up shows
      parameter.add_(0.02 * torch.randn_like(parameter))
  ours = UNet(out_channels=channels, resample="convolution", **config)
  params = convert(theirs.state_dict(), len(config["multipliers"]))
  rng = np.random.default_rng(1)
  x = rng.normal(size=(batch, size, size, channels)).astype(np.float32)
  t = np.linspace(0, 999, batch).astype(np.float32)
  expected_tree = jax.eval_shape(ours.init, jax.random.key(0), x, t)
  assert jax.tree.map(lambda a: a.shape, params) == jax.tree.map(lambda a: a.shape, expected_tree)
  with torch.no_grad():
    expected = (
      theirs(torch.from_numpy(x.transpose(0, 3, 1, 2)), torch.from_numpy(t)).sample.numpy().transpose(0, 2, 3, 1)
    )
  assert np.abs(expected).max() > 0.1
  np.testing.assert_allclose(jax.jit(ours.apply)(params, x, t), expected, atol=1e-4)


def test_small_network_agrees():
  agree(2, 16, 3, **SMALL)


@pytest.mark.slow
def test_published_network_agrees():
  config = {k: v for k, v in PUBLISHED["ddpm_cifar10"].items() if k not in ("dropout", "resample")}
  agree(3, 32, 2, **config)
