"""Images for watching the progress of training."""

import pathlib

import numpy as np

from diffjax import from_config, plots
from diffjax.cluster import processes
from diffjax.runs.clip import ClipRun
from diffjax.runs.diffusion import Run
from diffjax.runs.folder import load_data
from diffjax.typing import PyTree

DRAWN = 64


def preview(config, params: PyTree, step: int, path: pathlib.Path) -> None:
  """Writes an image of what a model can do: a grid of its samples, or the similarity matrix of a CLIP.

  All processes take part, and process 0 writes. `params` come from a layout's snapshot.
  """
  PREVIEWS[from_config.kind_of(config)](config, params, step, path)


def _preview_clip(config, params, step, path):
  similarity(ClipRun(from_config.clip.module(config), params, from_config.clip.tokenizer(config), config), path)


def _preview_drawn(config, params, step, path):
  run = Run(config, params, step)
  labels = np.arange(DRAWN) % run.num_classes if run.num_classes else None
  drawn = run.draw(DRAWN, labels=labels, batch_size=DRAWN)
  if processes.is_first():
    plots.save(plots.grid(drawn), path)


PREVIEWS = {"diffusion": _preview_drawn, "clip": _preview_clip}


def similarity(clip: ClipRun, path: pathlib.Path) -> None:
  """Plots the similarity of a held-out image of each class to the first held-out caption of each class.

  All processes encode, and process 0 writes.
  """
  texts = from_config.clip.held_out_captions(clip.config)[0]
  images = first_of_each_class(load_data(clip.config, "test"), len(texts))
  cosines = clip.encode_pictures(images) @ clip.encode_texts(texts).T
  if processes.is_first():
    plots.similarity_matrix(cosines, images, texts, path)


def first_of_each_class(source, num_classes: int) -> np.ndarray:
  """The first image of each class in a data source, uint8 [<= num_classes, H, W, C]."""
  found = {}
  for example in source:
    found.setdefault(int(example["label"]), example["image"])
    if len(found) == num_classes:
      break
  return np.stack([found[label] for label in sorted(found)])
