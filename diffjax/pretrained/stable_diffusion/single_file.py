"""Stable Diffusion as a pipeline, from one safetensors file in the layout of the original releases.

Such a file has no configuration: the architecture follows from the shapes of its tensors, and what they cannot tell is
asked for. It has no tokenizer either.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffjax.codecs import Latents
from diffjax.conditioning import Text, TextTower
from diffjax.data import load_tokenizer
from diffjax.denoisers import BoundNetwork
from diffjax.networks import (
  PUBLISHED_AUTOENCODERS,
  PUBLISHED_CLIP,
  PUBLISHED_TEXT_UNETS,
  AutoencoderKL,
  TextEncoder,
  TextUNet,
)
from diffjax.pipelines import Pipeline
from diffjax.pretrained import key_maps
from diffjax.pretrained.clip.keys import HUGGING_FACE, IGNORED, OPEN_CLIP
from diffjax.pretrained.folders import open_file
from diffjax.pretrained.schedulers import from_diffusers
from diffjax.pretrained.stable_diffusion import keys, weights
from diffjax.pretrained.stable_diffusion.pipeline import (
  AESTHETIC,
  assemble,
  check_channels,
  computing,
)
from diffjax.pretrained.tensors import Stored, open_tensors
from diffjax.system.files import shown
from diffjax.typing import PyTree

UNET, AUTOENCODER = "model.diffusion_model.", "first_stage_model."
SCHEDULER = dict(
  _class_name="DPMSolverMultistepScheduler",
  beta_start=0.00085,
  beta_end=0.012,
  beta_schedule="scaled_linear",
  use_karras_sigmas=True,
)
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction"}
NOT_PARAMETERS = (
  "model_ema.",
  "first_stage_model.loss.",
  "denoiser.",
  "alphas_",
  "betas",
  "sqrt_",
  "log_",
  "posterior_",
)
"""Beginnings of names that no network here reads: averages beside the weights, training losses, schedules."""
NOT_READ = ("logit_scale", *IGNORED)


class Kind(NamedTuple):
  """A published model.

  Attributes:
    unet: its name in PUBLISHED_TEXT_UNETS.
    encoders: for each text encoder its prefix, its name in PUBLISHED_CLIP, and whether its names are OpenCLIP's.
    layer: which hidden state is read, as in `conditioning.TextTower`.
    scale: of the latents.
    size: in pixels, by prediction.
  """

  unet: str
  encoders: tuple[tuple[str, str, bool], ...]
  layer: int
  scale: float
  size: Mapping[str, int]


L, H, BIG_G = "vit_l_14", "openclip_vit_h_14", "openclip_vit_bigg_14"
KINDS = {  # by the width of the text's hidden states
  768: Kind("stable_diffusion_1", (("cond_stage_model.transformer.", L, False),), -1, 0.18215, {"eps": 512, "v": 512}),
  1024: Kind("stable_diffusion_2", (("cond_stage_model.model.", H, True),), -2, 0.18215, {"eps": 512, "v": 768}),
  2048: Kind(
    "stable_diffusion_xl",
    (("conditioner.embedders.0.transformer.", L, False), ("conditioner.embedders.1.model.", BIG_G, True)),
    -2,
    0.13025,
    {"eps": 1024, "v": 1024},
  ),
  1280: Kind(
    "stable_diffusion_xl_refiner",
    (("conditioner.embedders.0.model.", BIG_G, True),),
    -2,
    0.13025,
    {"eps": 1024, "v": 1024},
  ),
}


def load_single_file(
  path: str | os.PathLike,
  *,
  tokenizer: str | os.PathLike,
  prediction: str | None = None,
  dtype: jnp.dtype | None = None,
) -> Pipeline:
  """A published text-to-image model in one file, ready to draw: Stable Diffusion 1, 2, XL or XL's refiner.

  Args:
    path: a .safetensors file.
    tokenizer: a folder with CLIP's tokenizer, the same for all of these models.
    prediction: what the network predicts, "eps" or "v"; needed for Stable Diffusion 2, whose files do not tell.
    dtype: as in `load_pipeline`.

  Raises:
    ValueError: a pickle; a damaged or hostile file; another kind of model; tensors that are missing, surplus or of the
      wrong shape; or `prediction` is missing or unknown.
    FileNotFoundError: no such file.
  """
  path = open_file(path, "give a .safetensors file")
  dtype = computing(dtype)
  with open_tensors(path.parent, path.name) as stored:
    stored = {name: tensor for name, tensor in stored.items() if _read(name)}
    kind, channels, context = _kind(path, stored)
    prediction = _prediction(path, kind, prediction)
    unet, autoencoder, encoders = _networks(kind, dtype)
    inpaints = check_channels(path, channels, unet)
    pooled = encoders[-1].width + (5 if kind is KINDS[1280] else 6) * unet.size_dim if unet.size_dim else 0
    parts: dict[str, tuple] = {
      UNET: (
        keys.original_unet(unet, linear_projection=True),
        weights.unet_shapes(unet, channels, context, pooled),
        "",
      ),
      AUTOENCODER: (keys.ORIGINAL_AUTOENCODER, weights.autoencoder_shapes(autoencoder), ""),
    }
    for (prefix, _, open_clip), encoder in zip(kind.encoders, encoders):
      parts[prefix] = (OPEN_CLIP if open_clip else HUGGING_FACE, encoder_shapes(encoder), "text/")
    _check_all_read(path, stored, parts)
    params = {}
    for prefix, (key_map, shapes, ours) in parts.items():
      own = {name.removeprefix(prefix): tensor for name, tensor in stored.items() if name.startswith(prefix)}
      own_dtype = None if prefix == AUTOENCODER else dtype
      params[prefix] = {"params": key_maps.load(key_map, shapes["params"], own, ours, own_dtype)}
  large = unet.size_dim > 0
  published = from_diffusers(SCHEDULER | {"prediction_type": PREDICTIONS[prediction]})
  read = load_tokenizer(tokenizer, length=77)
  towers = [
    TextTower(params[prefix], encoder, read._replace(pad_id=0) if open_clip else read, kind.layer, not large)
    for (prefix, _, open_clip), encoder in zip(kind.encoders, encoders)
  ]
  own_dtype = jnp.dtype(jnp.float32) if dtype == jnp.float16 else dtype
  codec = Latents(params[AUTOENCODER], kind.scale, 0.0, autoencoder.clone(dtype=own_dtype))
  aesthetic = AESTHETIC if kind is KINDS[1280] else None
  conditioner = Text(tuple(towers), pooled=large, zero_null=large, aesthetic=aesthetic)
  return assemble(BoundNetwork(params[UNET], unet), published, codec, conditioner, kind.size[prediction], inpaints)


def encoder_shapes(encoder: TextEncoder) -> PyTree:
  """The shapes of a text encoder's parameters."""
  return jax.eval_shape(encoder.init, jax.random.key(0), jax.ShapeDtypeStruct((1, encoder.context), jnp.int32))


def _read(name) -> bool:
  return not name.startswith(NOT_PARAMETERS) and not name.endswith(NOT_READ)


def _kind(path: Path, stored: Mapping[str, Stored]) -> tuple[Kind, int, int]:
  """(what the file holds, the U-Net's input channels, the width of its context)."""
  first = stored.get(f"{UNET}input_blocks.0.0.weight")
  cross = next((t for name, t in stored.items() if name.startswith(UNET) and name.endswith("attn2.to_k.weight")), None)
  if first is None or cross is None or len(first.shape) != 4 or len(cross.shape) != 2:
    lora = any("lora" in name for name in stored)
    held = "a LoRA, which changes a model but is none" if lora else "no U-Net in the original layout"
    raise ValueError(f"{path} holds {held}; give a whole checkpoint of Stable Diffusion.")
  context = cross.shape[1]
  if context not in KINDS:
    raise ValueError(
      f"{path} holds a U-Net that reads text of width {shown(context)}; give Stable Diffusion 1, 2, XL or its refiner."
    )
  return KINDS[context], first.shape[1], context


def _prediction(path, kind, given) -> str:
  if given is None and kind is KINDS[1024]:
    raise ValueError(
      f"{path} holds Stable Diffusion 2, and does not tell what it predicts; give prediction='eps' for the base model"
      " or 'v' for the one of 768 pixels."
    )
  if given not in (None, *PREDICTIONS):
    raise ValueError(f"there is no prediction {given!r}; choose one of {', '.join(PREDICTIONS)}.")
  return given or "eps"


def _networks(kind: Kind, dtype) -> tuple[TextUNet, AutoencoderKL, list[TextEncoder]]:
  encoders = []
  for _, name, open_clip in kind.encoders:
    encoder = PUBLISHED_CLIP[name]["text"]
    encoders.append(encoder.clone(dtype=dtype, features=encoder.features if open_clip else None))
  unet = TextUNet(**PUBLISHED_TEXT_UNETS[kind.unet], dtype=dtype)
  return unet, AutoencoderKL(**PUBLISHED_AUTOENCODERS["stable_diffusion"]), encoders


def _check_all_read(path: Path, stored: Mapping[str, Any], prefixes: Mapping[str, Any]) -> None:
  surplus = sorted(name for name in stored if not name.startswith(tuple(prefixes)))
  if surplus:
    more = f" and {len(surplus) - 3} more" if len(surplus) > 3 else ""
    raise ValueError(
      f"{path} has tensors of no known network ({', '.join(map(shown, surplus[:3]))}{more}); use another file."
    )
