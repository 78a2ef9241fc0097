"""Stable Diffusion as a pipeline, from a folder of published weights in Hugging Face's layout."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffjax import from_config, guidance
from diffjax.cluster import devices
from diffjax.cluster.layouts import Whole
from diffjax.codecs import Latents
from diffjax.conditioning import Text, TextTower
from diffjax.denoisers import BoundNetwork, NetworkDenoiser
from diffjax.from_config import construction
from diffjax.networks import TextUNet
from diffjax.pipelines import Pipeline
from diffjax.pretrained.folders import open_folder
from diffjax.pretrained.schedulers import Published, from_diffusers
from diffjax.pretrained.schedulers.writing import to_diffusers
from diffjax.pretrained.stable_diffusion import configs, weights
from diffjax.pretrained.stable_diffusion.configs import LatentSpace
from diffjax.pretrained.stable_diffusion.text import read_text_tower, save_text_tower
from diffjax.system.files import read_json, shown
from diffjax.typing import Array, Cond, Denoiser, Sampler

INDEX, PIPELINE = "model_index.json", "StableDiffusion{}{}Pipeline"
VERSION = "0.42.1"
"""The version of diffusers whose layout is written; some of its pipelines do not open a folder that names none."""
AESTHETIC = (6.0, 2.5)
"""The refiner's aesthetic scores of what is asked for, and of what is guided away from (Podell et al. 2023)."""
STEPS, STEPS_OF_DISTILLED = 30, 4
GUIDANCE_SCALE, GUIDANCE_SCALE_XL = 7.5, 5.0


@dataclasses.dataclass(frozen=True)
class PublishedDefaults:
  """Sampling settings from a scheduler's configuration; implements `pipelines.Defaults`.

  Attributes:
    published: the configuration in our terms.
    steps, guidance_scale, batch_size: as in `pipelines.Defaults`.
    embedded: whether the network reads the guidance scale itself.
  """

  published: Published
  steps: int = STEPS
  guidance_scale: float = GUIDANCE_SCALE
  batch_size: int = 4
  embedded: bool = False

  @property
  def sampler_name(self) -> str:
    return self.published.spec["name"]

  def grid(self, num_steps: int, name: str | None = None) -> Array:
    if name is None:
      return self.published.grid(num_steps)
    return construction.construct(
      from_config.GRIDS, "grid", {"name": name}, num_steps, schedule=self.published.schedule
    )

  def start_std(self, sigma: Array) -> Array:
    return self.published.start_std(sigma)

  def sampler(self, name: str | None, steps: int, /, **options: Any) -> Sampler:
    given = {key: value for key, value in options.items() if value is not None}
    spec = dict(self.published.spec) if name in (None, self.published.spec["name"]) else {"name": name}
    schedule = self.published.schedule
    own: dict[str, Any] = {"scaling": schedule.scaling, "schedule": schedule}
    if "s_churn" in given:
      own["num_steps"] = steps
    return construction.construct(from_config.SAMPLERS, "sampler", spec | given, **own)

  def guided(self, denoiser: Denoiser, null_cond: Cond = None, scale: float | None = None) -> Denoiser:
    """Classifier-free guidance for scales above 1, as in the published pipelines; at 1 or below, the model itself."""
    scale = 1.0 if scale is None else float(scale)
    if self.embedded:
      denoiser = guidance.Embedded(denoiser, scale)
    elif scale > 1:
      denoiser = guidance.ClassifierFree(denoiser, null_cond, scale)
    return self.published.threshold(denoiser)


def load_pipeline(folder: str | os.PathLike, *, dtype: jnp.dtype | None = None) -> Pipeline:
  """A published text-to-image model, ready to draw: Stable Diffusion 1, 2, XL or XL's refiner.

  Args:
    folder: with model_index.json and the folders it names, as Hugging Face's `from_pretrained` reads it.
    dtype: what the networks compute in and their weights are kept in, whatever the files have, as converting 16 bits to
      32 again in every program would take the memory of both; None: bfloat16 on GPU and TPU, float32 on CPU. The
      autoencoder's weights stay as in the file.

  Raises:
    ValueError: a pickle; another kind of model; a component that is damaged, hostile or does not fit the others.
    FileNotFoundError: a missing component.
  """
  folder = open_folder(folder)
  if not (folder / INDEX).exists():
    raise FileNotFoundError(f"{folder} holds no {INDEX}; give the folder of a whole pipeline.")
  index = read_json(folder, INDEX)
  dtype = computing(dtype)
  unet_config = read_json(_component(folder, index, "unet"), "config.json")
  network, channels, _ = configs.unet(unet_config, dtype)
  inpaints = check_channels(folder, channels, network)
  network, params = weights.load_unet(folder / "unet", dtype=dtype, param_dtype=dtype)
  # diffusers itself writes -Infinity, DPM-Solver's default for `lambda_min_clipped`
  scheduler = read_json(_component(folder, index, "scheduler"), "scheduler_config.json", infinite=True)
  published = from_diffusers(scheduler)
  codec = load_latents(_component(folder, index, "vae"), dtype)
  large = network.size_dim > 0
  conditioner = Text(
    towers=_towers(folder, index, large, dtype),
    pooled=large,
    zero_null=large and bool(index.get("force_zeros_for_empty_prompt", True)),
    aesthetic=AESTHETIC if index.get("requires_aesthetics_score") else None,
  )
  side = unet_config.get("sample_size", 64)
  if not isinstance(side, int) or not 0 < side <= 1024:
    raise ValueError(f"unet/config.json has sample_size {shown(side)}, expected a whole number in 1..1024; correct it.")
  network = BoundNetwork(params, network)
  return assemble(network, published, codec, conditioner, side * codec.downscaling, inpaints)


def assemble(
  network: BoundNetwork, published: Published, codec: Latents, conditioner: Text, size: int, inpaints: bool
) -> Pipeline:
  """The pipeline of a published model's parts, with settings to draw squares of `size` pixels."""
  unet = network.module
  distilled = unet.guidance_dim > 0
  steps, scale = (STEPS_OF_DISTILLED if distilled else STEPS), (GUIDANCE_SCALE_XL if unet.size_dim else GUIDANCE_SCALE)
  return Pipeline(
    denoiser=published.unclipped(network),
    image_shape=(size, size, codec.module.channels),
    defaults=PublishedDefaults(published, steps, scale, embedded=distilled),
    codec=codec,
    conditioner=conditioner,
    layout=Whole,
    inpaints=inpaints,
  )


def computing(dtype: jnp.dtype | None) -> jnp.dtype:
  """What networks compute in, by default as `load_pipeline`."""
  return jnp.dtype(dtype or ("float32" if devices.platform() == "cpu" else "bfloat16"))


def check_channels(path: Path, channels: int, network: TextUNet) -> bool:
  """Whether a U-Net's input channels are those of inpainting; ValueError if they are not latents alone either."""
  latents = network.out_channels
  if channels not in (latents, 2 * latents + 1):
    raise ValueError(
      f"{path} holds a U-Net of {channels} input channels, for depth, upscaling or editing, which is not drawn with"
      " yet; give a text-to-image or an inpainting model."
    )
  return channels != latents


def load_latents(folder: str | os.PathLike, dtype: jnp.dtype = jnp.float32) -> Latents:
  """The codec of an `AutoencoderKL`'s folder; float16, which overflows in most of them, only where it may be used."""
  network, params, space = weights.load_autoencoder(folder)
  dtype = jnp.dtype(jnp.float32) if space.upcast and dtype == jnp.float16 else dtype
  scale, shift = (jnp.asarray(value, jnp.float32) for value in (space.scale, space.shift))
  return Latents(params, scale, shift, network.clone(dtype=dtype), space.upcast)


def load_preview_codec(folder: str | os.PathLike) -> Latents:
  """The codec of an `AutoencoderTiny`'s folder, such as TAESD's, for a pipeline's `preview_codec`."""
  network, params = weights.load_tiny_autoencoder(folder)
  return Latents(params, module=network)


def save_latents(folder: str | os.PathLike, codec: Latents) -> None:
  """Writes an autoencoder's folder that `load_latents` and diffusers read."""
  scale, shift = (np.asarray(value).tolist() for value in (codec.scale, codec.shift))
  each = lambda value: tuple(value) if isinstance(value, list) else value
  weights.save_autoencoder(folder, codec.module, codec.params, LatentSpace(each(scale), each(shift), codec.upcast))


def save_pipeline(folder: str | os.PathLike, pipeline: Pipeline) -> None:
  """Writes a text-to-image pipeline as a folder that `load_pipeline` and diffusers read; every weight in its own dtype.

  A run's sampler and grid are not saved: its folder draws with DPM++ 2M on Karras' grid over its schedule.

  Raises:
    ValueError: the pipeline has no counterpart in diffusers, such as a model of pixels or a schedule of our own.
  """
  defaults, codec, conditioner = pipeline.defaults, pipeline.codec, pipeline.conditioner
  network = pipeline.denoiser.network if isinstance(pipeline.denoiser, NetworkDenoiser) else None
  if not (
    isinstance(network, BoundNetwork)
    and isinstance(defaults, PublishedDefaults | from_config.Defaults)
    and isinstance(codec, Latents)
    and isinstance(conditioner, Text)
  ):
    raise ValueError("only text-to-image pipelines can be saved, published or a run's; save its parts yourself.")
  if isinstance(defaults, PublishedDefaults):
    scheduler = dict(defaults.published.config)
  else:
    scheduler = to_diffusers(defaults.config.schedule, defaults.config.prediction, defaults.config.time_scale)
  folder = Path(folder).expanduser()
  side = max(pipeline.image_shape[:2]) // codec.downscaling
  weights.save_unet(folder / "unet", network.module, network.params, side=side)
  save_latents(folder / "vae", codec)
  (folder / "scheduler").mkdir(parents=True, exist_ok=True)
  _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
  large = network.module.size_dim > 0
  components = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "scheduler": ("diffusers", scheduler["_class_name"]),
  }
  refiner = large and len(conditioner.towers) == 1
  for number, tower in enumerate(conditioner.towers, 1 + refiner):
    ending = "" if number == 1 else f"_{number}"
    save_text_tower(folder / f"text_encoder{ending}", folder / f"tokenizer{ending}", tower)
    projected = "CLIPTextModelWithProjection" if tower.module.features else "CLIPTextModel"
    components |= {f"text_encoder{ending}": ("transformers", projected)}
    components |= {f"tokenizer{ending}": ("transformers", "CLIPTokenizer")}
  if refiner:
    components |= {"text_encoder": (None, None), "tokenizer": (None, None)}
  if large:
    more: dict[str, Any] = {"force_zeros_for_empty_prompt": conditioner.zero_null}
    more |= {"requires_aesthetics_score": True} if conditioner.aesthetic else {}
  else:
    more = dict.fromkeys(("safety_checker", "feature_extractor"), (None, None)) | {"requires_safety_checker": False}
  name = PIPELINE.format("XL" if large else "", "Img2Img" if refiner else "Inpaint" if pipeline.inpaints else "")
  _write_json(folder / INDEX, {"_class_name": name, "_diffusers_version": VERSION, **components, **more})


def _write_json(path: Path, value: Any) -> None:
  path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _component(folder: Path, index: Mapping[str, Any], name: str) -> Path:
  if not (folder / name).is_dir():
    raise FileNotFoundError(f"{folder} lacks its component {name}/; download the whole model again.")
  return folder / name


def _towers(folder, index, large, dtype) -> tuple[TextTower, ...]:
  """The text encoders that the index names: one, or two for SDXL, or its second alone for the refiner."""
  names = [name for name in ("text_encoder", "text_encoder_2") if _named(index, name)]
  if not names:
    raise ValueError(f"{folder / INDEX} names no text_encoder; give a text-to-image model.")
  towers = []
  for name in names:
    parts = _component(folder, index, name), _component(folder, index, name.replace("text_encoder", "tokenizer"))
    tower = read_text_tower(*parts, dtype=dtype, param_dtype=dtype)
    # SDXL reads the penultimate layer, as it is
    towers.append(dataclasses.replace(tower, layer=-2, normed=False) if large else tower)
  return tuple(towers)


def _named(index, name) -> bool:
  return isinstance(index.get(name), list) and None not in index[name]
