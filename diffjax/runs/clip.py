"""Loads a trained CLIP from its run, or from published weights."""

import pathlib

from diffjax import from_config, pretrained
from diffjax.cluster import devices
from diffjax.from_config.clip_run import ClipRun
from diffjax.runs.folder import CHECKPOINTS, check_kind, read_config, restore_averaged
from diffjax.system import paths


def load_clip(folder: str | pathlib.Path) -> ClipRun:
  """Loads the CLIP of a run's folder, or published weights with their tokenizer, as in `pretrained.load_clip`.

  Raises:
    FileNotFoundError: if the folder holds neither, or no checkpoint yet.
    ValueError: if it holds another kind of model, or is damaged.
  """
  folder = paths.as_path(folder)
  if not folder.is_dir():
    raise FileNotFoundError(f"there is no folder {folder}; give a CLIP run, or a folder of published weights.")
  if not (folder / CHECKPOINTS).is_dir():
    if paths.is_remote(folder):
      raise ValueError(f"{folder} is not a run, and published weights must be in a local folder; copy them here.")
    return _published(folder)
  config = read_config(folder)
  check_kind(folder, config, "clip", "; give a CLIP's.")
  params = devices.whole(restore_averaged(folder, config)[0])  # every process encodes texts by itself
  return ClipRun(from_config.clip.module(config), params, from_config.clip.tokenizer(config), config)


def _published(folder):
  module, params = pretrained.load_clip(folder)
  tokenizer = pretrained.load_tokenizer_of(module.text, folder)
  return ClipRun(module, params, tokenizer, preprocessing=pretrained.load_preprocessing(folder))
