"""CLIP and SigLIP from and to local folders, in Hugging Face's layout or OpenCLIP's."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffjax.data import Tokenizer, load_tokenizer
from diffjax.networks import CLIP, ImageEncoder, TextEncoder
from diffjax.pretrained.clip import configs, open_clip_configs
from diffjax.pretrained.clip.keys import HUGGING_FACE, HUGGING_FACE_TOWERS, IGNORED, OPEN_CLIP, OPEN_CLIP_TOWERS, SIGLIP
from diffjax.pretrained.folders import open_folder, refuse_pickles
from diffjax.pretrained.key_maps import KeyMap, load, save
from diffjax.pretrained.tensors import Stored, open_tensors
from diffjax.system.files import read_json
from diffjax.typing import PyTree


class _Checkpoint(NamedTuple):
  config: dict[str, Any]
  stored: Mapping[str, Stored]
  key_map: KeyMap
  towers: Mapping[str, tuple[str, ...]]


def load_clip(
  folder: str | os.PathLike, *, dtype: jnp.dtype = jnp.float32, param_dtype: jnp.dtype = jnp.float32
) -> tuple[CLIP, PyTree]:
  """A published model with both towers: (module, params), for `module.apply(params, images, tokens)`.

  Args:
    folder: with `config.json` and `model.safetensors`, or its shards and `model.safetensors.index.json`; or with
      OpenCLIP's `open_clip_config.json` and `open_clip_model.safetensors`. Tensors may have 64, 32 or 16 bits.
    dtype: what the module computes in.
    param_dtype: what the parameters are stored in.

  Raises:
    ValueError: pickles; a damaged or hostile file, shard index or configuration; tensors that are missing, surplus or
      of the wrong shape. All of this is checked before any tensor is read.
    FileNotFoundError: a missing file.
  """
  with _open(folder) as checkpoint:
    if checkpoint.key_map is OPEN_CLIP:
      model = open_clip_configs.clip(checkpoint.config, dtype)
    else:
      model = configs.clip(checkpoint.config, dtype)
    inputs = _images(model.image), _tokens(model.text)
    return model, _load(model, inputs, checkpoint.key_map, checkpoint.stored, "", param_dtype)


def load_text_encoder(
  folder: str | os.PathLike, *, dtype: jnp.dtype = jnp.float32, param_dtype: jnp.dtype | None = jnp.float32
) -> tuple[TextEncoder, PyTree]:
  """The text tower of a published model, or of a folder with only a text tower, as in text-to-image models.

  Arguments and errors are those of `load_clip`. A tower without a projection gets features=None.
  """
  return _load_tower(folder, "text", dtype, param_dtype)


def load_tokenizer_of(module: TextEncoder, folder: str | os.PathLike) -> Tokenizer:
  """The tokenizer in a folder, for texts as long as an encoder reads.

  Raises:
    ValueError: as `data.load_tokenizer`, or the tokenizer knows more tokens than the encoder.
  """
  tokenizer = load_tokenizer(folder, length=module.context)
  if tokenizer.vocab_size > module.vocab_size:
    raise ValueError(
      f"the tokenizer in {folder} has {tokenizer.vocab_size} tokens, but its model knows {module.vocab_size}; take both"
      " from one model."
    )
  return tokenizer


def load_image_encoder(
  folder: str | os.PathLike, *, dtype: jnp.dtype = jnp.float32, param_dtype: jnp.dtype = jnp.float32
) -> tuple[ImageEncoder, PyTree]:
  """The image tower of a published model, or of a folder with only an image tower; see `load_text_encoder`."""
  return _load_tower(folder, "image", dtype, param_dtype)


def _load_tower(folder, tower, dtype, param_dtype):
  with _open(folder) as checkpoint:
    config, stored = checkpoint.config, _of_tower(checkpoint, tower)
    if checkpoint.key_map is OPEN_CLIP:
      module = getattr(open_clip_configs.clip(config, dtype), tower)
    else:
      projected = {"text": "text_projection.weight", "image": "visual_projection.weight"}[tower] in stored
      features = configs.whole(config, "projection_dim", 512, "features") if projected else None
      build = {"text": configs.text_encoder, "image": configs.image_encoder}[tower]
      module = build(config, features, dtype)
    inputs = (_tokens(module) if tower == "text" else _images(module),)
    return module, _load(module, inputs, checkpoint.key_map, stored, f"{tower}/", param_dtype)


def _of_tower(checkpoint, tower):
  """The stored tensors of one tower; a file with only that tower may omit the prefix of their names."""
  beginnings = checkpoint.towers[tower]
  if checkpoint.config.get("model_type", "clip") in ("clip", "siglip"):
    return {name: tensor for name, tensor in checkpoint.stored.items() if name.startswith(beginnings)}
  return {n if n.startswith(beginnings) else beginnings[0] + n: tensor for n, tensor in checkpoint.stored.items()}


@contextlib.contextmanager
def _open(folder: str | os.PathLike) -> Iterator[_Checkpoint]:
  folder = open_folder(folder)
  holds = lambda name: (folder / name).exists() or (folder / f"{name}.index.json").exists()
  if holds("model.safetensors"):
    config = read_json(folder, "config.json")
    key_map = {"clip": HUGGING_FACE, "siglip": SIGLIP}[configs.family_of(config)]
    name, towers = "model.safetensors", HUGGING_FACE_TOWERS
  elif holds("open_clip_model.safetensors"):
    config = read_json(folder, "open_clip_config.json")
    name, key_map, towers = "open_clip_model.safetensors", OPEN_CLIP, OPEN_CLIP_TOWERS
  else:
    refuse_pickles(folder)
  with open_tensors(folder, name) as stored:
    stored = {key: tensor for key, tensor in stored.items() if not key.endswith(IGNORED)}
    if key_map is OPEN_CLIP:  # models with a separate text tower class prefix its names
      stored = {key.removeprefix("text."): tensor for key, tensor in stored.items()}
    yield _Checkpoint(config, stored, key_map, towers)


def _load(module, inputs, key_map, stored, prefix, param_dtype):
  shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
  return {"params": load(key_map, shapes, stored, prefix, param_dtype)}


def _images(tower):
  return jax.ShapeDtypeStruct((1, tower.image_size, tower.image_size, tower.channels), jnp.float32)


def _tokens(tower):
  return jax.ShapeDtypeStruct((1, tower.context), jnp.int32)


def save_clip(folder: str | os.PathLike, model: CLIP, params: PyTree) -> None:
  """Writes `config.json` and `model.safetensors` in Hugging Face's layout, which `transformers` and `load_clip` read.

  Args:
    folder: created if missing; these two files in it are replaced.
    model: CLIP's or SigLIP's architecture.
    params: {"params": ...} as `apply` takes them; written in their own dtype.

  Raises:
    ValueError: a model that mixes CLIP's and SigLIP's parts.
  """
  config = configs.to_hugging_face(model)
  save(folder, "model", config, {"clip": HUGGING_FACE, "siglip": SIGLIP}[config["model_type"]], params)


def save_text_encoder(folder: str | os.PathLike, encoder: TextEncoder, params: PyTree) -> None:
  """Writes CLIP's text tower alone, as `save_clip` does; `load_text_encoder` and `transformers` read it."""
  save(folder, "model", configs.text_to_hugging_face(encoder), HUGGING_FACE, params, "text/")


def save_image_encoder(folder: str | os.PathLike, encoder: ImageEncoder, params: PyTree) -> None:
  """Writes an image tower alone, as `save_clip` does; `load_image_encoder` and `transformers` read it."""
  config = configs.image_to_hugging_face(encoder)
  save(folder, "model", config, SIGLIP if encoder.pooling == "attention" else HUGGING_FACE, params, "image/")
