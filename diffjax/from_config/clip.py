"""CLIPs from their configs: the towers, the captions, and what they are trained on."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffjax.data import Tokenizer, captions, train_tokenizer
from diffjax.from_config import guidance
from diffjax.from_config.construction import construct, lookup, set_fields
from diffjax.from_config.diffusion import DTYPES, NOISE_LEVELS
from diffjax.networks import CLIP, ImageEncoder, ImageFeatures, TextEncoder
from diffjax.training.objectives.clip import ContrastiveObjective
from diffjax.training.optimizers import at_most
from diffjax.typing import Array, PyTree

NETWORKS = {"clip": CLIP}
LOSSES = ("softmax", "sigmoid")
MAX_LOGIT_SCALE = 100.0
"""What the learned inverse temperature is kept below (Radford et al. 2021, section 2.5)."""


def num_classes(config) -> int:
  """How many labels the captions name."""
  return len(training_captions(config)[0])


def training_captions(config) -> list[list[str]]:
  """The captions that a config trains on, [templates][classes]."""
  return captions(config.captions.templates, config.captions.names)


def held_out_captions(config) -> list[list[str]]:
  """The captions that it does not see in training, [templates][classes]."""
  return captions(config.captions.held_out, config.captions.names)


def tokenizer(config) -> Tokenizer:
  """The tokenizer of a config's captions, the same for every call."""
  texts = [text for texts in training_captions(config) for text in texts]
  return train_tokenizer(texts, config.captions.vocab_size, config.captions.length)


def module(config) -> CLIP:
  """Both towers, with as many tokens as the captions need."""
  spec = config.model
  both = dict(features=spec.features, dtype=lookup(DTYPES, "dtype", spec.dtype))
  towers = {"image": ImageEncoder, "text": TextEncoder}
  make = lambda name, **fields: construct(towers, "tower", {"name": name, **set_fields(spec[name])}, **both, **fields)
  vocab_size, context = tokenizer(config).vocab_size, config.captions.length
  # SigLIP's own (Zhai et al. 2023, section 3.2)
  start: dict[str, Any] = {"log_scale": math.log(10), "bias": -10.0} if spec.loss == "sigmoid" else {}
  image, text = make("image", image_size=config.data.image_size), make("text", vocab_size=vocab_size, context=context)
  return CLIP(image=image, text=text, **start)


def objective(config) -> ContrastiveObjective:
  """What a config trains."""
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


def initial_params(config, key: Array) -> PyTree:
  """Both towers' parameters before training."""
  clip, size = module(config), config.data.image_size
  return clip.init(key, jnp.zeros((1, size, size, 3)), jnp.zeros((1, config.captions.length), jnp.int32))


def bounds(config) -> tuple:
  """What the parameters are kept within, after each update."""
  return (at_most("logit_scale", math.log(MAX_LOGIT_SCALE)),)


def check(config) -> None:
  """Raises ValueError for the first mistake in what a config says of a CLIP."""
  if config.train.accumulate > 1:
    raise ValueError(
      "train.accumulate must be 1 for a CLIP, whose loss compares all pictures of a batch; leave it out."
    )
  held_out_captions(config)
  objective(config)
  guidance.check(config.guidance, ImageFeatures({}, module(config).image))


def memory_settings(config) -> dict[str, Any]:
  """What of a config decides how much memory its training step needs, besides the batch: nothing."""
  return {}
