"""The text encoder of a text-to-image model with its tokenizer, from and to folders in Hugging Face's layout."""

import os
from pathlib import Path

import jax.numpy as jnp

from diffjax.conditioning import TextTower
from diffjax.pretrained.clip import load_text_encoder, load_tokenizer_of, save_text_encoder
from diffjax.pretrained.folders import open_folder


def load_text_tower(folder: str | os.PathLike) -> TextTower:
  """The first text encoder of a text-to-image model's folder, or that of a CLIP's, as Stable Diffusion reads it.

  Raises:
    ValueError, FileNotFoundError: as `load_text_encoder` and `load_tokenizer_of`.
  """
  folder = open_folder(folder)
  inside = (folder / "text_encoder").is_dir()
  return read_text_tower(*((folder / "text_encoder", folder / "tokenizer") if inside else (folder, folder)))


def read_text_tower(
  encoder: Path, tokenizer: Path, *, dtype: jnp.dtype = jnp.float32, param_dtype: jnp.dtype | None = None
) -> TextTower:
  """A text encoder and the tokenizer that fits it, from their folders."""
  module, params = load_text_encoder(encoder, dtype=dtype, param_dtype=param_dtype)
  return TextTower(params, module, load_tokenizer_of(module, tokenizer))


def save_text_tower(encoder: str | os.PathLike, tokenizer: str | os.PathLike, tower: TextTower) -> None:
  """Writes both folders, which `read_text_tower` and transformers read."""
  save_text_encoder(encoder, tower.module, tower.params)
  tower.tokenizer.save(tokenizer)
