"""Loads the text encoder of a text-to-image model from a CLIP's run, or from published weights."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp

from diffjax import data, from_config, pretrained
from diffjax.conditioning import TextTower
from diffjax.runs.clip import load_clip
from diffjax.runs.folder import CHECKPOINTS, existing
from diffjax.system import compilation
from diffjax.typing import Array

TEXT_ENCODER, TOKENIZER = "text_encoder", "tokenizer"
"""Their folders in that of a latent diffusion model."""
MEASURED = 1024
"""Number of training captions whose hidden states' deviation is measured."""


def read_text_tower(folder: str | pathlib.Path) -> TextTower:
  """The text encoder of a CLIP's run, or of a folder of published weights: a text-to-image model's or CLIP's own.

  In the folder of a latent diffusion run, the one that its training started from.

  The last norm of a run's encoder is scaled so that the hidden states of its training captions have unit variance.

  Raises:
    FileNotFoundError: if the folder holds neither, or no checkpoint yet.
    ValueError: if it holds another kind of model, or is damaged.
  """
  path = existing(folder, "a CLIP")
  if (path / TEXT_ENCODER).is_dir() or not (path / CHECKPOINTS).is_dir():
    return pretrained.load_text_tower(path)
  clip = load_clip(path)
  params = {name: value for name, value in clip.params["params"]["text"].items() if name != "projection"}
  module = clip.module.text.clone(features=None, dtype=jnp.float32, parent=None)  # as its copies are read
  tower = TextTower({"params": params}, module, clip.tokenizer)
  texts = [text for template in from_config.clip.training_captions(clip.config) for text in template]
  tokens = clip.tokenizer(data.evenly(texts, MEASURED))
  std = float(_states(dataclasses.replace(tower, tokenizer=None), tokens).std())
  scaled = jax.tree.map(lambda a: a / std, params["norm_out"])
  return dataclasses.replace(tower, params={"params": params | {"norm_out": scaled}})


@compilation.jit
def _states(tower: TextTower, tokens: Array) -> Array:
  return tower.states(tokens)[0]
