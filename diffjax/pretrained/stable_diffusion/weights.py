"""The parameters of Stable Diffusion's networks, from and to folders in Hugging Face's layout."""

import os
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp

from diffjax.networks import AutoencoderKL, TextUNet, TinyAutoencoder
from diffjax.pretrained import key_maps
from diffjax.pretrained.folders import open_folder, refuse_pickles
from diffjax.pretrained.key_maps import KeyMap
from diffjax.pretrained.stable_diffusion import configs, keys
from diffjax.pretrained.stable_diffusion.configs import LatentSpace
from diffjax.pretrained.tensors import Stored, open_tensors
from diffjax.system.files import read_json
from diffjax.typing import PyTree

NAME = "diffusion_pytorch_model"


def load_unet(
  folder: str | os.PathLike, *, dtype: jnp.dtype = jnp.float32, param_dtype: jnp.dtype | None = None
) -> tuple[TextUNet, PyTree]:
  """A `UNet2DConditionModel`: (network, params).

  Args:
    folder: with config.json and diffusion_pytorch_model.safetensors, its variant (...fp16.safetensors) or its shards.
    dtype: what the network computes in.
    param_dtype: what the parameters are stored in; None: as in the file.

  Raises:
    ValueError: pickles; a damaged or hostile file or configuration; tensors that are missing, surplus or of the wrong
      shape. All of this is checked before any tensor is read.
    FileNotFoundError: a missing file.
  """
  folder = open_folder(folder)
  config = read_json(folder, "config.json")
  network, channels, context = configs.unet(config, dtype)
  key_map = keys.unet(network, linear_projection=bool(config.get("use_linear_projection", False)))
  pooled = config.get("projection_class_embeddings_input_dim") or 0
  with open_tensors(folder, weights_file(folder, NAME)) as stored:
    return network, load(key_map, unet_shapes(network, channels, context, pooled), stored, param_dtype)


def unet_shapes(network: TextUNet, channels: int, context: int, pooled: int = 0) -> PyTree:
  """The shapes of a U-Net's parameters, for its input channels and the widths of its context and pooled embedding."""
  side = 2 ** (len(network.widths) - 1)
  shape = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct(shape, dtype)
  cond = {"context": shape(1, 1, context)}
  if network.size_dim:  # how many of these are sizes makes no difference to the shapes
    cond |= {"pooled": shape(1, pooled - network.size_dim), "sizes": shape(1, 1)}
  if network.num_labels:
    cond["label"] = shape(1, dtype=jnp.int32)
  if network.guidance_dim:
    cond["guidance"] = shape(1)
  return jax.eval_shape(network.init, jax.random.key(0), shape(1, side, side, channels), shape(), cond)


def load_autoencoder(
  folder: str | os.PathLike, *, dtype: jnp.dtype = jnp.float32, param_dtype: jnp.dtype | None = None
) -> tuple[AutoencoderKL, PyTree, LatentSpace]:
  """An `AutoencoderKL`: (network, params, how x0 is scaled); arguments and errors as `load_unet`."""
  folder = open_folder(folder)
  network, latents = configs.autoencoder(read_json(folder, "config.json"), dtype)
  with open_tensors(folder, weights_file(folder, NAME)) as stored:
    stored = {new_attention_name(name): tensor for name, tensor in stored.items()}
    return network, load(keys.autoencoder(network), autoencoder_shapes(network), stored, param_dtype), latents


def new_attention_name(name: str) -> str:
  """A tensor's name, with the projections of attention called as they are today."""
  parts = name.split(".")
  old = len(parts) > 1 and "attentions" in parts and parts[-2] in keys.OLD_ATTENTION
  return ".".join([*parts[:-2], keys.OLD_ATTENTION[parts[-2]], parts[-1]]) if old else name


def autoencoder_shapes(network: AutoencoderKL | TinyAutoencoder) -> PyTree:
  """The shapes of an autoencoder's parameters."""
  images = jax.ShapeDtypeStruct((1, network.downscaling, network.downscaling, network.channels), jnp.float32)
  return jax.eval_shape(network.init, jax.random.key(0), images)


def load(key_map: KeyMap, shapes: PyTree, stored: Mapping[str, Stored], param_dtype: jnp.dtype | None) -> PyTree:
  """{"params": ...} with these shapes, from stored tensors; errors as `load_unet`."""
  return {"params": key_maps.load(key_map, shapes["params"], stored, "", param_dtype)}


def weights_file(folder: Path, name: str) -> str:
  """The safetensors file of this name, whole or sharded, in full precision if there is a choice of variants."""
  endings = (".safetensors", ".safetensors.index.json", ".fp16.safetensors", ".safetensors.index.fp16.json")
  for ending in endings:
    if (folder / f"{name}{ending}").exists():
      return f"{name}{ending}".replace(".safetensors.index.json", ".safetensors")
  others = sorted(path.name for path in folder.glob(f"{name}*.safetensors"))
  if others:
    return others[0]
  refuse_pickles(folder)
  raise AssertionError("refuse_pickles raises")


def save_unet(
  folder: str | os.PathLike,
  network: TextUNet,
  params: PyTree,
  *,
  linear_projection: bool = True,
  side: int | None = None,
) -> None:
  """Writes a folder that `load_unet` and diffusers read; `side` is that of the latents drawn by default."""
  tree = params["params"]
  channels = tree["conv_in"]["kernel"].shape[2]
  context = tree["middle_transformer"]["block_0"]["attention_1"]["k"]["kernel"].shape[0]
  pooled = tree["embed_pooled"]["dense_0"]["kernel"].shape[0] if network.size_dim else 0
  config = configs.from_unet(network, channels, context, pooled, linear_projection, side)
  key_maps.save(folder, NAME, config, keys.unet(network, linear_projection=linear_projection), params)


def save_autoencoder(folder: str | os.PathLike, network: AutoencoderKL, params: PyTree, latents: LatentSpace) -> None:
  """Writes a folder that `load_autoencoder` and diffusers read."""
  key_maps.save(folder, NAME, configs.from_autoencoder(network, latents), keys.autoencoder(network), params)


def load_tiny_autoencoder(
  folder: str | os.PathLike, *, dtype: jnp.dtype = jnp.float32, param_dtype: jnp.dtype | None = None
) -> tuple[TinyAutoencoder, PyTree]:
  """An `AutoencoderTiny`, whose latents are x0 itself: (network, params); arguments and errors as `load_unet`."""
  folder = open_folder(folder)
  network = configs.tiny_autoencoder(read_json(folder, "config.json"), dtype)
  with open_tensors(folder, weights_file(folder, NAME)) as stored:
    return network, load(keys.tiny_autoencoder(network), autoencoder_shapes(network), stored, param_dtype)
