"""Textual inversion (Gal et al. 2022): words that stand for learned embeddings, added to a pipeline's text encoders."""

import dataclasses
import os
import re
from pathlib import Path

import numpy as np

from diffjax.conditioning import Text
from diffjax.pipelines import Pipeline
from diffjax.pretrained.folders import open_file
from diffjax.pretrained.tensors import FLOATS, open_tensors
from diffjax.system.files import shown

UNNAMED = "emb_params"
"""The tensor's name in AUTOMATIC1111's files, whose word is the name of the file."""
TOWERS_OF_XL = ("clip_l", "clip_g")
MAX_VECTORS = 256


def load_textual_inversion(pipeline: Pipeline, path: str | os.PathLike, word: str | None = None) -> Pipeline:
  """The pipeline with a further word for prompts, which stands for the vectors in a .safetensors file.

  Args:
    pipeline: a text-to-image model.
    path: diffusers' {word: [k, D]}, AUTOMATIC1111's {"emb_params": [k, D]}, or for SDXL "clip_l" and "clip_g".
    word: what prompts write; default: the name in the file, or else the file's own.

  Raises:
    ValueError: a pickle or a damaged file; embeddings of other widths than the text encoders'; a word that the
      tokenizer knows already.
    FileNotFoundError: there is no such file.
  """
  conditioner = pipeline.conditioner
  if not isinstance(conditioner, Text):
    raise ValueError("textual inversion needs a text-to-image model; omit it.")
  path = open_file(path, "give a .safetensors file of textual inversion")
  name, vectors = _read(path)
  word = word or name or path.stem
  if not word or re.search(r"[\s()\[\]:\\]", word):
    raise ValueError(f"the word {shown(word)} of {path} has spaces, brackets or colons; choose another, or rename it.")
  widths = [tower.module.width for tower in conditioner.towers]
  if [each.shape[1] for each in vectors] != widths:
    found = " and ".join(str(each.shape[1]) for each in vectors)
    raise ValueError(
      f"{path} has embeddings of width {found}, but the text encoders have {' and '.join(map(str, widths))}; use one"
      " made for this model."
    )
  towers = tuple(tower.with_word(word, own) for tower, own in zip(conditioner.towers, vectors))
  return dataclasses.replace(pipeline, conditioner=dataclasses.replace(conditioner, towers=towers))


def _read(path: Path) -> tuple[str | None, list[np.ndarray]]:
  """(the word in the file or None, the vectors [k, D] for each text encoder)."""
  with open_tensors(path.parent, path.name) as stored:
    wrong = [name for name, tensor in stored.items() if tensor.dtype not in FLOATS or len(tensor.shape) > 2]
    names = TOWERS_OF_XL if set(stored) == set(TOWERS_OF_XL) else tuple(stored)
    if wrong or not names or (len(names) > 1 and names != TOWERS_OF_XL):
      raise ValueError(
        f"{path} holds {', '.join(map(shown, list(stored)[:5]))}, which is no textual inversion; use another file."
      )
    if any(len(tensor.shape) == 2 and not 1 <= tensor.shape[0] <= MAX_VECTORS for tensor in stored.values()):
      raise ValueError(f"{path} holds no vectors, or more than {MAX_VECTORS}; use another file.")
    vectors = [np.atleast_2d(np.asarray(stored[name].read(), np.float32)) for name in names]
  return (next(iter(names)) if len(names) == 1 and UNNAMED not in names else None), vectors
