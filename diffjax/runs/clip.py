"""A trained CLIP: embeddings of texts and images, and zero-shot classification."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffjax import from_config, pretrained
from diffjax.cluster import devices
from diffjax.codecs import to_float
from diffjax.data import Tokenizer, load_tokenizer
from diffjax.networks import CLIP, ImageFeatures, unit
from diffjax.runs.folder import CHECKPOINTS, read_config, restore_averaged
from diffjax.system import compilation, paths
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
    captions = np.asarray(from_config.clip.training_captions(self.config))
    vectors = self.encode_texts(captions.ravel().tolist()).reshape(*captions.shape, -1)
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
  if from_config.kind_of(config) != "clip":
    raise ValueError(f"{folder} is the run of a diffusion model; give a CLIP run as --clip.")
  params = devices.whole(restore_averaged(folder, config)[0])  # every process encodes texts by itself
  return ClipRun(from_config.clip.module(config), params, from_config.clip.tokenizer(config), config)


def _published(folder):
  module, params = pretrained.load_clip(folder)
  tokenizer = load_tokenizer(folder, length=module.text.context)
  if tokenizer.vocab_size > module.text.vocab_size:
    raise ValueError(
      f"the tokenizer in {folder} has {tokenizer.vocab_size} tokens, but its model knows {module.text.vocab_size}; use"
      " both from the same source."
    )
  return ClipRun(module, params, tokenizer, preprocessing=pretrained.load_preprocessing(folder))
