"""Stable Diffusion's networks against diffusers on the same random weights, through the folders that both read."""

import jax
import numpy as np
import pytest
from diffusers_latent import AUTOENCODERS, TINY, UNETS

from diffjax.pretrained.stable_diffusion import weights

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

CLOSE = dict(rtol=1e-4, atol=1e-5)


def made(cls, config):
  """A network of theirs in which nothing is zero or one, so that a mix-up shows."""
  torch.manual_seed(0)
  network = cls(**config).eval().requires_grad_(False)
  for parameter in network.parameters():
    parameter.add_(0.05 * torch.randn_like(parameter))
  return network


def to_torch(a):
  return torch.from_numpy(np.ascontiguousarray(np.moveaxis(a, -1, 1)))


def from_torch(a):
  return np.moveaxis(a.numpy(), 1, -1)


def same_state(a, b):
  a, b = a.state_dict(), b.state_dict()
  return list(a) == list(b) and all(torch.equal(x, y) for x, y in zip(a.values(), b.values()))


def requests(theirs, rng):
  """The same cond for both: (ours, theirs)."""
  config = theirs.config
  ours = {"context": rng.normal(size=(2, 7, config.cross_attention_dim)).astype(np.float32)}
  more = {}
  if config.addition_embed_type:
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    ours |= {"pooled": rng.normal(size=(2, pooled)).astype(np.float32)}
    ours |= {"sizes": rng.uniform(0, 1024, (2, 6)).astype(np.float32)}
    entries = {"text_embeds": torch.from_numpy(ours["pooled"]), "time_ids": torch.from_numpy(ours["sizes"])}
    more["added_cond_kwargs"] = entries
  if config.num_class_embeds:
    ours["label"] = np.array([1, 5], np.int32)
    more["class_labels"] = torch.tensor([1, 5])
  if config.time_cond_proj_dim:
    ours["guidance"] = np.array([7.5, 1.0], np.float32)
    embed = diffusers.LatentConsistencyModelPipeline.get_guidance_scale_embedding
    more["timestep_cond"] = embed(None, torch.from_numpy(ours["guidance"] - 1), config.time_cond_proj_dim)
  return ours, more


@pytest.mark.parametrize("name", UNETS)
def test_unet(name, tmp_path):
  theirs = made(diffusers.UNet2DConditionModel, UNETS[name])
  theirs.save_pretrained(tmp_path)
  ours, params = weights.load_unet(tmp_path)
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 7, 11, theirs.config.in_channels)).astype(np.float32)
  t = np.array([3, 721], np.float32)
  cond, more = requests(theirs, rng)
  expected = theirs(to_torch(x), torch.from_numpy(t), torch.from_numpy(cond["context"]), **more).sample
  assert expected.std() > 0.1
  np.testing.assert_allclose(jax.jit(ours.apply)(params, x, t, cond), from_torch(expected), **CLOSE)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoder(name, tmp_path):
  theirs = made(diffusers.AutoencoderKL, AUTOENCODERS[name])
  theirs.save_pretrained(tmp_path)
  ours, params, _ = weights.load_autoencoder(tmp_path)
  images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 24, 3)).astype(np.float32)
  expected = theirs.encode(to_torch(images)).latent_dist
  found = jax.jit(lambda params: ours.apply(params, images, method="encode"))(params)
  np.testing.assert_allclose(found.mean, from_torch(expected.mean), **CLOSE)
  np.testing.assert_allclose(found.log_variance, from_torch(expected.logvar), **CLOSE)
  np.testing.assert_allclose(found.kl(), expected.kl(), **CLOSE)
  decoded = jax.jit(lambda params: ours.apply(params, found.mean, method="decode"))(params)
  np.testing.assert_allclose(decoded, from_torch(theirs.decode(expected.mean).sample), **CLOSE)


def test_tiny_autoencoder(tmp_path):
  theirs = made(diffusers.AutoencoderTiny, TINY)
  theirs.save_pretrained(tmp_path)
  ours, params = weights.load_tiny_autoencoder(tmp_path)
  images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 24, 3)).astype(np.float32)
  expected = theirs.encode(to_torch(images)).latents
  found = jax.jit(lambda params: ours.apply(params, images, method="encode"))(params)
  np.testing.assert_allclose(found, from_torch(expected), **CLOSE)
  decoded = jax.jit(lambda params: ours.apply(params, found, method="decode"))(params)
  np.testing.assert_allclose(decoded, from_torch(theirs.decode(expected).sample), **CLOSE)


@pytest.mark.parametrize("name", ["stable_diffusion_1", "stable_diffusion_xl", "x4_upscaler"])
def test_unet_round_trip(name, tmp_path):
  theirs = made(diffusers.UNet2DConditionModel, UNETS[name])
  theirs.save_pretrained(tmp_path / "theirs")
  ours, params = weights.load_unet(tmp_path / "theirs")
  linear = bool(theirs.config.use_linear_projection)
  weights.save_unet(tmp_path / "ours", ours, params, linear_projection=linear)
  assert same_state(theirs, diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "ours"))
  again, same = weights.load_unet(tmp_path / "ours")
  assert again == ours
  jax.tree.map(np.testing.assert_array_equal, same, params)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoder_round_trip(name, tmp_path):
  theirs = made(diffusers.AutoencoderKL, AUTOENCODERS[name])
  theirs.save_pretrained(tmp_path / "theirs")
  ours, params, latents = weights.load_autoencoder(tmp_path / "theirs")
  weights.save_autoencoder(tmp_path / "ours", ours, params, latents)
  assert same_state(theirs, diffusers.AutoencoderKL.from_pretrained(tmp_path / "ours"))
  again, _, read = weights.load_autoencoder(tmp_path / "ours")
  assert again == ours
  np.testing.assert_allclose([read.scale, read.shift], [latents.scale, latents.shift], rtol=1e-12)


def test_half_precision_is_read_as_it_is(tmp_path):
  made(diffusers.UNet2DConditionModel, UNETS["stable_diffusion_1"]).half().save_pretrained(tmp_path, variant="fp16")
  _, params = weights.load_unet(tmp_path)
  assert {a.dtype for a in jax.tree.leaves(params)} == {np.dtype("float16")}


def test_shards(tmp_path):
  theirs = made(diffusers.UNet2DConditionModel, UNETS["stable_diffusion_2"])
  theirs.save_pretrained(tmp_path / "whole")
  theirs.save_pretrained(tmp_path / "shards", max_shard_size="1MB")
  assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
  _, whole = weights.load_unet(tmp_path / "whole")
  _, shards = weights.load_unet(tmp_path / "shards")
  jax.tree.map(np.testing.assert_array_equal, whole, shards)
