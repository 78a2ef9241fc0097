"""OpenCLIP's `open_clip_config.json` as our modules."""

from typing import Any

import jax.numpy as jnp

from diffjax.networks import CLIP, ImageEncoder, TextEncoder
from diffjax.pretrained.clip.configs import check_tower, whole
from diffjax.system.files import shown

Config = dict[str, Any]

# supported keys; any other would change the network
MODEL = {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg", "custom_text"}
VISION = {"image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size", "patch_dropout"}
TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}


def clip(config: Config, dtype: jnp.dtype) -> CLIP:
  """Both towers of OpenCLIP's configuration.

  Raises:
    ValueError: invalid or inconsistent numbers, or keys of networks other than CLIP's transformers.
  """
  model = _object(config, "model_cfg", MODEL)
  vision, text = _object(model, "vision_cfg", VISION), _object(model, "text_cfg", TEXT)
  features = whole(model, "embed_dim", None, "features")
  activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
  shared: Config = dict(features=features, activation=activation, dtype=dtype)
  return CLIP(
    image=ImageEncoder(**check_tower(_image(vision)), **shared),
    text=TextEncoder(**check_tower(_text(text)), **shared),
  )


def _image(vision):
  width, head_width = whole(vision, "width", 768, "width"), whole(vision, "head_width", 64, "width")
  return dict(
    image_size=whole(vision, "image_size", 224, "image_size"),
    patch=whole(vision, "patch_size", 16, "patch"),
    width=width,
    layers=whole(vision, "layers", 12, "layers"),
    heads=max(1, width // head_width),
    mlp_width=_mlp_width(vision, width),
  )


def _text(text):
  width = whole(text, "width", 512, "width")
  return dict(
    vocab_size=whole(text, "vocab_size", 49408, "vocab_size"),
    context=whole(text, "context_length", 77, "context"),
    width=width,
    layers=whole(text, "layers", 12, "layers"),
    heads=whole(text, "heads", 8, "heads"),
    mlp_width=_mlp_width(text, width),
  )


def _mlp_width(config, width):
  ratio = config.get("mlp_ratio", 4.0)
  if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 64:
    raise ValueError(f"open_clip_config.json has mlp_ratio {shown(ratio)}, expected a number in 0..64; correct it.")
  return int(width * ratio)


def _object(config, key, known):
  value = config.get(key)
  if not isinstance(value, dict):
    raise ValueError(f"open_clip_config.json has {key} {shown(value)}, expected an object; correct it.")
  if unknown := sorted(set(value) - known):
    raise ValueError(
      f"open_clip_config.json has {', '.join(map(shown, unknown[:8]))} in {key}; use a model of CLIP's transformers, "
      f"with only {', '.join(sorted(known))}."
    )
  return value
