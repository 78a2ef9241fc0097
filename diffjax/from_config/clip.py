"""Builds CLIPs from configs: the towers, the captions, and the training objective."""

import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffjax.data import Source, Tokenizer, captions, train_tokenizer
from diffjax.from_config import defaults, guidance
from diffjax.from_config.clip_run import ClipRun, similarity
from diffjax.from_config.construction import construct, lookup, set_fields
from diffjax.from_config.tables import DTYPES, NOISE_LEVELS
from diffjax.networks import CLIP, ImageEncoder, ImageFeatures, TextEncoder
from diffjax.training.objectives.clip import ContrastiveObjective
from diffjax.training.optimizers import at_most
from diffjax.typing import Array, PyTree

NETWORKS: dict[str, Callable[..., Any]] = {"clip": CLIP}
NOUN: str = "a CLIP"
NEW_KEYS: tuple[str, ...] = ("guidance",)
"""Keys missing from configs of older runs; their defaults reproduce the behaviour of those runs."""
OF_BOTH_TOWERS = ("features", "dtype")
"""Fields that both towers share."""
LOSSES = ("softmax", "sigmoid")
MAX_LOGIT_SCALE = 100.0
"""Upper bound of the learned inverse temperature (Radford et al. 2021, section 2.5)."""


def default_config() -> Any:
  """A CLIP's ConfigDict with every key that train.py and sample.py read; files in configs/ fill it in."""
  config = defaults.common()
  config.data.shift = 0
  config.model.update(name="clip", features=64, loss="softmax", dtype="float32")
  towers = {"image": ImageEncoder, "text": TextEncoder}
  config.model.update({name: defaults.fields(tower, OF_BOTH_TOWERS) for name, tower in towers.items()})
  config.captions = dict(names={}, templates=(), held_out=(), vocab_size=1024, length=32)
  config.guidance = defaults.guidance()
  return config


def num_classes(config) -> int:
  """Number of classes in the captions."""
  return len(training_captions(config)[0])


def training_captions(config) -> list[list[str]]:
  """The captions that a config trains on, [templates][classes]."""
  return captions(config.captions.templates, config.captions.names)


def held_out_captions(config) -> list[list[str]]:
  """The captions not used in training, [templates][classes]."""
  return captions(config.captions.held_out, config.captions.names)


def tokenizer(config) -> Tokenizer:
  """The tokenizer trained on a config's captions; deterministic."""
  texts = [text for texts in training_captions(config) for text in texts]
  return train_tokenizer(texts, config.captions.vocab_size, config.captions.length)


def module(config) -> CLIP:
  """Both towers, with the vocabulary size that the captions need."""
  spec = config.model
  both = dict(features=spec.features, dtype=lookup(DTYPES, "dtype", spec.dtype))
  towers = {"image": ImageEncoder, "text": TextEncoder}
  make = lambda name, **fields: construct(towers, "tower", {"name": name, **set_fields(spec[name])}, **both, **fields)
  vocab_size, context = tokenizer(config).vocab_size, config.captions.length
  # SigLIP's initial values (Zhai et al. 2023, section 3.2)
  start: dict[str, Any] = {"log_scale": math.log(10), "bias": -10.0} if spec.loss == "sigmoid" else {}
  image, text = make("image", image_size=config.data.image_size), make("text", vocab_size=vocab_size, context=context)
  return CLIP(image=image, text=text, **start)


def objective(config) -> ContrastiveObjective:
  """The training objective of a config."""
  lookup(dict.fromkeys(LOSSES), "contrastive loss", config.model.loss)
  encode = tokenizer(config)
  levels = construct(NOISE_LEVELS, "noise level distribution", config.noise_levels) if config.noise_levels else None
  return ContrastiveObjective(
    tokens=np.stack([encode(texts) for texts in training_captions(config)]),
    noise_levels=levels,
    module=module(config),
    shift=config.data.shift,
    flip=config.data.flip,
    sigmoid=config.model.loss == "sigmoid",
  )


def initial_params(config, key: Array, frozen: PyTree = None) -> PyTree:
  """Initial parameters of both towers."""
  clip, size = module(config), config.data.image_size
  return clip.init(key, jnp.zeros((1, size, size, 3)), jnp.zeros((1, config.captions.length), jnp.int32))


def initial_frozen(config) -> PyTree:
  """What training reads but does not change: nothing."""
  return None


def bounds(config) -> tuple:
  """Constraints applied to the parameters after each update."""
  return (at_most("logit_scale", math.log(MAX_LOGIT_SCALE)),)


def check(config) -> None:
  """Raises ValueError for the first mistake in a CLIP's config."""
  if config.train.accumulate > 1:
    raise ValueError("train.accumulate must be 1 for a CLIP, whose loss compares all of a batch's images; unset it.")
  if config.data.get("image_width"):
    raise ValueError("data.image_width is set, but a CLIP reads squares of data.image_size pixels; unset it.")
  held_out_captions(config)
  objective(config)
  guidance.check(config.guidance, ImageFeatures({}, module(config).image))


def preview(config, params: PyTree, frozen: PyTree, held_out: Callable[[], Source], path: pathlib.Path) -> None:
  """Writes the similarity matrix of held-out pictures and captions."""
  similarity(ClipRun(module(config), params, tokenizer(config), config), held_out(), path)


def memory_settings(config) -> dict[str, Any]:
  """Settings, besides the batch size, that affect the memory of a training step: none."""
  return {}
