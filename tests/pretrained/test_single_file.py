"""Single files in the original layout: their names against diffusers' converters, and whole small files."""

import math

import numpy as np
import pytest
from safetensors.numpy import save_file

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusers.loaders import single_file_utils  # noqa: E402 - after the skips
from diffusers_latent import AUTOENCODERS, TEXTS, UNETS  # noqa: E402
from flax import traverse_util  # noqa: E402

from diffjax import pretrained  # noqa: E402
from diffjax.data import train_tokenizer  # noqa: E402
from diffjax.networks import TextEncoder  # noqa: E402
from diffjax.pretrained.clip.keys import HUGGING_FACE, OPEN_CLIP  # noqa: E402
from diffjax.pretrained.stable_diffusion import configs, keys, single_file, weights  # noqa: E402
from diffjax.pretrained.stable_diffusion.single_file import AUTOENCODER, KINDS, UNET  # noqa: E402


def random_tensors(key_map, shapes, prefix="", ours=""):
  """Random tensors of a network in float32, under their stored names."""
  rng = np.random.default_rng(0)
  tensors = {}
  for path, leaf in traverse_util.flatten_dict(shapes["params"], sep="/").items():
    values = (rng.normal(size=leaf.shape) / math.sqrt(max(math.prod(leaf.shape[:-1]), 1))).astype(np.float32)
    tensors |= {prefix + name: a for name, a in key_map.to_stored(ours + path, values).items()}
  return {name: np.ascontiguousarray(a).reshape(a.shape) for name, a in tensors.items()}


def same(found, expected):
  assert set(found) == set(expected)
  for name in found:
    np.testing.assert_array_equal(np.squeeze(found[name]), np.squeeze(expected[name]))


@pytest.mark.parametrize("name", [name for name in UNETS if name != "latent_consistency"])
def test_names_of_the_unet(name):
  network, channels, context = configs.unet(UNETS[name], np.float32)
  shapes = weights.unet_shapes(network, channels, context, UNETS[name].get("projection_class_embeddings_input_dim", 0))
  original = random_tensors(keys.original_unet(network, linear_projection=True), shapes, UNET)
  defaults = dict(class_embed_type=None, addition_embed_type=None, num_class_embeds=None)
  converted = single_file_utils.convert_ldm_unet_checkpoint(
    {name: torch.from_numpy(a) for name, a in original.items()}, configs.UNET_DEFAULTS | defaults | UNETS[name]
  )
  if name == "x4_upscaler":  # which they read by another path
    converted["class_embedding.weight"] = original[f"{UNET}label_emb.weight"]
  same(converted, random_tensors(keys.unet(network, linear_projection=True), shapes))


@pytest.mark.parametrize("name", ["f2"])
def test_names_of_the_autoencoder(name):
  network, _ = configs.autoencoder(AUTOENCODERS[name], np.float32)
  shapes = weights.autoencoder_shapes(network)
  original = random_tensors(keys.ORIGINAL_AUTOENCODER, shapes, AUTOENCODER)
  for key, a in original.items():  # which the original release stores as 1x1 convolutions
    if ".attn_1." in key and a.ndim == 2:
      original[key] = a[:, :, None, None]
  converted = single_file_utils.convert_ldm_vae_checkpoint(
    {name: torch.from_numpy(a) for name, a in original.items()}, AUTOENCODERS[name]
  )
  same(converted, random_tensors(keys.autoencoder(network), shapes))


@pytest.fixture
def small(monkeypatch, tmp_path):
  """small(context): a file of that kind with small networks, what is in it, and the folder of a tokenizer."""
  tokenizer = train_tokenizer(TEXTS, 600, length=77)
  tokenizer.save(tmp_path / "tokenizer")

  def make(context):
    kind = KINDS[context]
    large = "xl" in kind.unet
    widths = [8] if len(kind.encoders) == 1 else [6, 8]
    own = {
      name: TextEncoder(vocab_size=tokenizer.vocab_size, width=width, layers=3, heads=2, features=width)
      for (_, name, _), width in zip(kind.encoders, widths)
    }
    monkeypatch.setattr(single_file, "PUBLISHED_CLIP", {name: {"text": encoder} for name, encoder in own.items()})
    unet = dict(
      widths=(8, 16), layers_per_level=1, attending=(False, True), depth=(1, 1), num_heads=(2, 2),
      only_cross_attention=(False, False), num_groups=4, size_dim=4 if large else 0,
    )  # fmt: skip
    monkeypatch.setattr(single_file, "PUBLISHED_TEXT_UNETS", {kind.unet: unet})
    autoencoder = dict(widths=(8, 8), layers_per_level=1, num_groups=4)
    monkeypatch.setattr(single_file, "PUBLISHED_AUTOENCODERS", {"stable_diffusion": autoencoder})
    small_kind = kind._replace(size={"eps": 16, "v": 16})
    monkeypatch.setitem(KINDS, sum(widths), small_kind)
    monkeypatch.setitem(KINDS, context, small_kind)
    network, decoder, encoders = single_file._networks(small_kind, np.dtype(np.float32))
    numbers = 5 if context == 1280 else 6
    pooled = encoders[-1].width + numbers * network.size_dim if large else 0
    tensors = random_tensors(
      keys.original_unet(network, linear_projection=True),
      weights.unet_shapes(network, 4, sum(widths), pooled),
      UNET,
    )
    tensors |= random_tensors(keys.ORIGINAL_AUTOENCODER, weights.autoencoder_shapes(decoder), AUTOENCODER)
    for (prefix, _, open_clip), encoder in zip(kind.encoders, encoders):
      shapes = single_file.encoder_shapes(encoder)
      tensors |= random_tensors(OPEN_CLIP if open_clip else HUGGING_FACE, shapes, prefix, "text/")
    tensors["model_ema.num_updates"] = np.zeros((), np.int32)
    tensors["alphas_cumprod"] = np.zeros(1000, np.float32)
    path = tmp_path / f"{context}.safetensors"
    save_file(tensors, path)
    return path, tensors, tmp_path / "tokenizer"

  return make


@pytest.mark.slow
@pytest.mark.parametrize("context", sorted(KINDS))
def test_a_whole_file_draws(small, context):
  path, tensors, tokenizer = small(context)
  prediction = "v" if context == 1024 else None
  pipeline = pretrained.load_single_file(path, tokenizer=tokenizer, prediction=prediction)
  images = pipeline.draw(2, prompt=TEXTS[:2], steps=2).images
  assert images.shape == (2, 16, 16, 3) and not np.array_equal(images[0], images[1])
  kernel = pipeline.denoiser.network.params["params"]["conv_in"]["kernel"]
  np.testing.assert_array_equal(np.moveaxis(kernel, (3, 2), (0, 1)), tensors[f"{UNET}input_blocks.0.0.weight"])
  if context != 768:
    assert pipeline.conditioner.towers[-1].layer == -2 and pipeline.conditioner.towers[-1].tokenizer.pad_id == 0


def test_mistakes(small, tmp_path):
  path, tensors, tokenizer = small(1024)
  load = lambda path, **asked: pretrained.load_single_file(path, tokenizer=tokenizer, **asked)

  def saved(changed):
    save_file(changed, tmp_path / "changed.safetensors")
    return tmp_path / "changed.safetensors"

  with pytest.raises(ValueError, match="does not tell what it predicts; give prediction='eps'"):
    load(path)
  with pytest.raises(ValueError, match="no prediction 'x'; choose one of eps, v"):
    load(path, prediction="x")
  with pytest.raises(ValueError, match=r"surplus|no known network \(extra\.weight\)"):
    load(saved(tensors | {"extra.weight": np.zeros(3, np.float32)}), prediction="v")
  less = {name: a for name, a in tensors.items() if not name.endswith("out.2.bias")}
  with pytest.raises(ValueError, match=r"missing: out\.2\.bias"):
    load(saved(less), prediction="v")
  with pytest.raises(ValueError, match="holds a LoRA, which changes a model but is none"):
    load(saved({"lora_unet_x.lora_down.weight": np.zeros((4, 4), np.float32)}))
  with pytest.raises(ValueError, match="pickle, which can execute code"):
    load(tmp_path / "model.ckpt")
  with pytest.raises(FileNotFoundError, match="there is no file"):
    load(tmp_path / "none.safetensors")
