"""CLIP's and SigLIP's Hugging Face configurations as our modules, and our modules as Hugging Face configurations."""

import math
from typing import Any

import jax.numpy as jnp

from diffjax.networks import CLIP, ImageEncoder, TextEncoder
from diffjax.system.files import shown

Config = dict[str, Any]

ACTIVATIONS = {
  "quick_gelu": "quick_gelu",
  "gelu": "gelu",
  "gelu_pytorch_tanh": "gelu_tanh",
  "gelu_new": "gelu_tanh",
}
LIMITS = {"layers": 128, "heads": 512, "image_size": 8192, "patch": 8192, "context": 8192, "channels": 64}
"""Upper limits, so that a hostile configuration cannot exhaust the machine; 2^20 for other fields."""

# their key, our field, their default if the configuration omits it
SHARED = [
  ("hidden_size", "width", None),
  ("intermediate_size", "mlp_width", None),
  ("num_hidden_layers", "layers", 12),
  ("num_attention_heads", "heads", None),
]
TEXT = [*SHARED, ("vocab_size", "vocab_size", None), ("max_position_embeddings", "context", None)]
IMAGE = [*SHARED, ("image_size", "image_size", 224), ("patch_size", "patch", None), ("num_channels", "channels", 3)]
DEFAULTS = {
  ("clip", "text"): dict(
    hidden_size=512, intermediate_size=2048, num_attention_heads=8, vocab_size=49408, max_position_embeddings=77
  ),
  ("clip", "image"): dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, patch_size=32),
  ("siglip", "text"): dict(
    hidden_size=768, intermediate_size=3072, num_attention_heads=12, vocab_size=32000, max_position_embeddings=64
  ),
  ("siglip", "image"): dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, patch_size=16),
}
ACTIVATION = {"clip": "quick_gelu", "siglip": "gelu_pytorch_tanh"}
NORM_EPS = {"clip": 1e-5, "siglip": 1e-6}


def family_of(config: Config) -> str:
  """ "clip" or "siglip" by `model_type`, or ValueError."""
  model_type = config.get("model_type", "clip")
  for family in ("siglip", "clip"):
    if model_type in (family, f"{family}_text_model", f"{family}_vision_model"):
      return family
  raise ValueError(f"config.json is of model_type {shown(model_type)}; use a clip or siglip model.")


def part(config: Config, tower: str) -> Config:
  """The configuration of the "text" or "image" tower alone: a part of config, or config itself if it has one tower."""
  key = {"text": "text_config", "image": "vision_config"}[tower]
  if config.get("model_type", "clip") not in ("clip", "siglip"):
    return config
  # old files contain the part twice; the `_dict` one takes precedence
  chosen = config.get(f"{key}_dict") or config.get(key) or {}
  if not isinstance(chosen, dict):
    raise ValueError(f"config.json has {key} {shown(chosen)}, expected an object; correct it.")
  return chosen


def text_encoder(config: Config, features: int | None, dtype: jnp.dtype) -> TextEncoder:
  """The text tower of a Hugging Face configuration; features None omits CLIP's projection."""
  family, config = family_of(config), part(config, "text")
  fields = _tower(config, TEXT, (family, "text"))
  if family == "siglip":
    features = whole(config, "projection_size", fields["width"], "features")
    return TextEncoder(features=features, pooling="last", causal=False, projection_bias=True, dtype=dtype, **fields)
  eos_id = config.get("eos_token_id", 49407)
  if not isinstance(eos_id, int) or isinstance(eos_id, bool) or not 0 <= eos_id < max(fields["vocab_size"], 3):
    most = fields["vocab_size"] - 1
    raise ValueError(
      f"config.json has eos_token_id {shown(eos_id)}, expected a whole number from 0 to {most}; correct it."
    )
  # early configurations wrongly say 2, and mean CLIP's own rule
  place = dict(pooling="highest") if eos_id == 2 else dict(pooling="eos", eos_id=eos_id)
  return TextEncoder(features=features, dtype=dtype, **place, **fields)


def image_encoder(config: Config, features: int | None, dtype: jnp.dtype) -> ImageEncoder:
  """The image tower of a Hugging Face configuration; features None omits CLIP's projection."""
  family, config = family_of(config), part(config, "image")
  fields = _tower(config, IMAGE, (family, "image"))
  if family == "clip":
    return ImageEncoder(features=features, dtype=dtype, **fields)
  if config.get("vision_use_head", True) is not True:
    raise ValueError("config.json has vision_use_head false; use a SigLIP with its pooling head.")
  return ImageEncoder(pooling="attention", dtype=dtype, **fields)


def clip(config: Config, dtype: jnp.dtype) -> CLIP:
  """Both towers of a Hugging Face configuration."""
  if config.get("model_type", "clip") not in ("clip", "siglip"):
    raise ValueError(
      f"config.json is for a {config['model_type']} only; load it with load_text_encoder or load_image_encoder."
    )
  if family_of(config) == "siglip":
    towers = image_encoder(config, None, dtype), text_encoder(config, None, dtype)
    return CLIP(*towers, log_scale=math.log(10), bias=-10.0)
  features = whole(config, "projection_dim", 512, "features")
  return CLIP(image_encoder(config, features, dtype), text_encoder(config, features, dtype))


def _tower(config, keys, kind):
  defaults, family = DEFAULTS[kind], kind[0]
  fields = {ours: whole(config, key, defaults.get(key, default), ours) for key, ours, default in keys}
  activation = config.get("hidden_act", ACTIVATION[family])
  if not isinstance(activation, str) or activation not in ACTIVATIONS:
    raise ValueError(f"config.json has hidden_act {shown(activation)}; use one of {', '.join(ACTIVATIONS)}.")
  norm_eps = config.get("layer_norm_eps", NORM_EPS[family])
  if not isinstance(norm_eps, float) or not 0 < norm_eps < 1:
    raise ValueError(f"config.json has layer_norm_eps {shown(norm_eps)}, expected a number in 0..1; correct it.")
  return check_tower(dict(fields, activation=ACTIVATIONS[activation], norm_eps=norm_eps))


def whole(config: Config, key: str, default: Any, field: str) -> int:
  """An integer from the configuration within its limit, or ValueError; two equal integers in a list count as one."""
  value, most = config.get(key, default), LIMITS.get(field, 2**20)
  if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
    value = value[0]
  if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
    raise ValueError(
      f"the configuration has {key} {shown(value)}, expected a whole number from 1 to {most}; correct it."
    )
  return value


def check_tower(fields: dict[str, Any]) -> dict[str, Any]:
  """The fields, or ValueError if they are inconsistent."""
  if fields["width"] % fields["heads"]:
    raise ValueError(
      f"the configuration splits width {fields['width']} into {fields['heads']} heads, which do not divide it; correct"
      " one of them."
    )
  if fields.get("patch", 1) > fields.get("image_size", 1):
    raise ValueError(
      f"the configuration has patches of {fields['patch']} pixels in images of only {fields['image_size']}; correct one"
      " of them."
    )
  return fields


def to_hugging_face(model: CLIP) -> Config:
  """Hugging Face's configuration of a model, or ValueError if it has neither CLIP's nor SigLIP's architecture."""
  image, text = model.image, model.text
  if (image.pooling, text.pooling, text.causal, text.projection_bias, model.bias is None) == (
    "attention", "last", False, True, False,
  ) and image.features is None:  # fmt: skip
    family, more = "siglip", {}
    text_more = {"projection_size": text.features}
  elif image.pooling == "class" and text.pooling != "last" and text.causal and model.bias is None and image.features:
    family = "clip"
    more = {"projection_dim": image.features, "logit_scale_init_value": model.log_scale}
    # 2 stands for CLIP's own rule
    text_more = {"eos_token_id": text.eos_id if text.pooling == "eos" else 2, "projection_dim": image.features}
  else:
    raise ValueError("this model mixes CLIP's and SigLIP's parts, so there is no published layout to save it in.")
  return {
    "model_type": family,
    "architectures": [{"clip": "CLIPModel", "siglip": "SiglipModel"}[family]],
    **more,
    "text_config": {"model_type": f"{family}_text_model", **_to_part(text, TEXT), **text_more},
    "vision_config": {"model_type": f"{family}_vision_model", **_to_part(image, IMAGE)}
    | ({"projection_dim": image.features} if image.features else {}),
  }


def text_to_hugging_face(text: TextEncoder) -> Config:
  """Hugging Face's configuration of CLIP's text tower alone, or ValueError if it has another architecture."""
  if text.pooling == "last" or not text.causal or text.projection_bias:
    raise ValueError("this text encoder is not CLIP's, so there is no published layout to save it in.")
  return {
    "model_type": "clip_text_model",
    "architectures": ["CLIPTextModelWithProjection" if text.features else "CLIPTextModel"],
    **_to_part(text, TEXT),
    "eos_token_id": text.eos_id if text.pooling == "eos" else 2,
    **({"projection_dim": text.features} if text.features else {}),
  }


def image_to_hugging_face(image: ImageEncoder) -> Config:
  """Hugging Face's configuration of an image tower alone, or ValueError if it has another architecture."""
  if image.pooling not in ("class", "attention"):
    raise ValueError(f"no published image encoder pools by {image.pooling!r}; train one that pools by 'class'.")
  family = "clip" if image.pooling == "class" else "siglip"
  projection = {"projection_dim": image.features} if image.features else {}
  return {"model_type": f"{family}_vision_model", **_to_part(image, IMAGE), **projection}


def _to_part(tower, keys):
  names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
  values = {key: getattr(tower, ours) for key, ours, _ in keys}
  values["intermediate_size"] = tower.mlp_width or 4 * tower.width
  return {**values, "hidden_act": names[tower.activation], "layer_norm_eps": tower.norm_eps}
