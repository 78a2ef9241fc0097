"""A CLIP with its parameters: embeddings of texts and images, zero-shot classification, and a plot of what it sees."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffjax.cluster import devices, processes
from diffjax.codecs import to_float
from diffjax.data import Source, Tokenizer, captions
from diffjax.networks import CLIP, ImageFeatures, unit
from diffjax.system import compilation
from diffjax.typing import Array, PyTree

BATCH = 256


@dataclasses.dataclass
class ClipRun:
  """Both towers of a CLIP with their parameters, and its tokenizer.

  Attributes:
    module: the towers.
    params: their parameters, on the host, or sharded as in training; then all processes must encode together.
    tokenizer: texts to tokens.
    config: the ConfigDict of its training run; None for published weights.
    preprocessing: mean, std and crop of `networks.ImageFeatures`, if a folder of published weights specifies them.
  """

  module: CLIP
  params: PyTree
  tokenizer: Tokenizer
  config: Any = None
  preprocessing: dict = dataclasses.field(default_factory=dict)

  @property
  def image_features(self) -> ImageFeatures:
    """Maps images in -1..1, of any size, to unit vectors [B, D], differentiably."""
    return ImageFeatures({"params": self.params["params"]["image"]}, self.module.image, **self.preprocessing)

  @property
  def logit_scale(self) -> float:
    """The learned inverse temperature."""
    return float(jnp.exp(self.params["params"]["logit_scale"]))

  @functools.cached_property
  def classes(self) -> np.ndarray | None:
    """Unit vectors [C, D] of the classes it was trained on, averaged over captions; None for published weights.

    CLIP, section 3.1.4, "ensembling over different prompts".
    """
    if self.config is None:
      return None
    texts = np.asarray(captions(self.config.captions.templates, self.config.captions.names))
    vectors = self.encode_texts(texts.ravel().tolist()).reshape(*texts.shape, -1)
    return np.asarray(unit(vectors.mean(axis=0)))

  def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
    """Unit vectors [T, D] of prompts; an empty one is a ValueError."""
    return devices.whole(_encode_texts(self.module, self.params, self.tokenizer.prompts(texts)))

  def encode_pictures(self, images: np.ndarray) -> np.ndarray:
    """Unit vectors [N, D] of pictures uint8 [N, H, W, C]."""
    features = self.image_features
    parts = [_encode_pictures(features, images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
    return np.concatenate([devices.whole(part) for part in parts])

  def zero_shot(self, captions: Sequence[Sequence[str]], images: np.ndarray) -> np.ndarray:
    """Zero-shot classes [templates, N]: those whose captions are most similar to each image (CLIP, section 3.1).

    Args:
      captions: captions of each class, [templates][classes].
      images: uint8 [N, H, W, C].
    """
    pictures = self.encode_pictures(images)
    return np.stack([np.argmax(pictures @ self.encode_texts(texts).T, axis=1) for texts in captions])


@functools.partial(compilation.jit, static_argnums=0)
def _encode_texts(module: CLIP, params: PyTree, tokens: Array) -> Array:
  return unit(module.apply(params, tokens, method="encode_text").features)  # pyright: ignore[reportAttributeAccessIssue]  Flax: no pair, as nothing is mutable


@compilation.jit
def _encode_pictures(features: ImageFeatures, images: Array) -> Array:
  return features(to_float(images))


def similarity(clip: ClipRun, held_out: Source, path: pathlib.Path) -> None:
  """Plots the similarity of a held-out image of each class to the first held-out caption of each class.

  All processes encode, and process 0 writes.
  """
  from diffjax import plots

  texts = captions(clip.config.captions.held_out, clip.config.captions.names)[0]
  images = first_of_each_class(held_out, len(texts))
  cosines = clip.encode_pictures(images) @ clip.encode_texts(texts).T
  if processes.is_first():
    plots.similarity_matrix(cosines, images, texts, path)


def first_of_each_class(source: Source, num_classes: int) -> np.ndarray:
  """The first image of each class in a data source, uint8 [<= num_classes, H, W, C]."""
  found = {}
  for example in source:
    found.setdefault(int(example["label"]), example["image"])
    if len(found) == num_classes:
      break
  return np.stack([found[label] for label in sorted(found)])
