"""Builds autoencoders from configs, and their training objective."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.cluster import devices, processes
from diffjax.codecs import to_float, to_uint8
from diffjax.data import Source, evenly
from diffjax.from_config import defaults
from diffjax.from_config.construction import construct, lookup, set_fields
from diffjax.from_config.tables import DTYPES
from diffjax.networks import AutoencoderKL, PatchDiscriminator
from diffjax.system import compilation
from diffjax.training.objectives.autoencoder import DISCRIMINATOR, AutoencoderObjective
from diffjax.typing import Array, PyTree

NETWORKS: dict[str, Callable[..., Any]] = {"autoencoder_kl": AutoencoderKL}
NOUN: str = "an autoencoder"
NEW_KEYS: tuple[str, ...] = (
  "init_from",
  "loss.perceptual",
  "loss.perceptual_weight",
  "loss.adversarial_weight",
)
"""Keys missing from configs of older runs; their defaults reproduce the behaviour of those runs."""
SMALLEST = 3
"""Positions that the discriminator's last two convolutions need along each side."""
PREVIEWED = 10
"""Number of images in a preview."""


def default_config() -> Any:
  """An autoencoder's ConfigDict with every key that train.py reads; files in configs/ fill it in."""
  config = defaults.common()
  config.model = defaults.fields(AutoencoderKL)
  config.model.name = "autoencoder_kl"
  config.init_from = ""
  config.loss = dict(kl_weight=1e-6, perceptual="", perceptual_weight=0.0, adversarial_weight=0.0)
  return config


def module(config) -> AutoencoderKL:
  """The autoencoder of a config."""
  fields = set_fields(config.model)
  if "dtype" in fields:
    fields["dtype"] = lookup(DTYPES, "dtype", fields["dtype"])
  return construct(NETWORKS, "network", fields, channels=config.data.channels)


def num_classes(config) -> int:
  """0: labels are not used."""
  return 0


def objective(config) -> AutoencoderObjective:
  """The training objective of a config."""
  loss = config.loss
  return AutoencoderObjective(
    float(loss.kl_weight),
    float(loss.perceptual_weight),
    float(loss.adversarial_weight),
    module=module(config),
    discriminator=discriminator(config),
    flip=config.data.flip,
  )


def discriminator(config) -> PatchDiscriminator | None:
  """The discriminator that is trained along, as wide as the autoencoder; None without an adversarial term."""
  if not config.loss.adversarial_weight:
    return None
  made = module(config)
  return PatchDiscriminator(made.widths[0], max(len(made.widths) - 1, 1), made.num_groups)


def initial_params(config, key: Array, frozen: PyTree = None) -> PyTree:
  """Initial parameters of both halves, and of the discriminator if there is one."""
  images = jnp.zeros((1, *defaults.image_size(config), config.data.channels))
  params, judge = dict(module(config).init(key, images)), discriminator(config)
  if judge is not None:
    params[DISCRIMINATOR] = judge.init(jax.random.fold_in(key, 1), images)["params"]
  return params


def initial_frozen(config) -> PyTree:
  """What training reads but does not change: nothing."""
  return None


def bounds(config) -> tuple:
  """Constraints applied to the parameters after each update: none."""
  return ()


def check(config) -> None:
  """Raises ValueError for the first mistake in an autoencoder's config."""
  made = module(config)
  for side in defaults.image_size(config):
    if side % made.downscaling:
      raise ValueError(
        f"data.image_size is {side}, but this autoencoder needs a multiple of {made.downscaling}; change it, or the"
        " number of model.widths."
      )
  for width in made.widths:
    if width % made.num_groups:
      raise ValueError(
        f"{width} channels do not split into {made.num_groups} groups; change model.widths or model.num_groups."
      )
  for name, usual in dict(kl_weight=1e-6, perceptual_weight=1.0, adversarial_weight=0.5).items():
    if not config.loss[name] >= 0:
      raise ValueError(f"loss.{name} is {config.loss[name]}, but must not be negative; use {usual}, for example.")
  if bool(config.loss.perceptual) != (config.loss.perceptual_weight > 0):
    raise ValueError(
      "the perceptual loss needs a CLIP, loss.perceptual, and a loss.perceptual_weight above 0; set both, or neither."
    )
  judge = discriminator(config)
  if judge is not None and min(defaults.image_size(config)) < SMALLEST * 2**judge.layers:
    raise ValueError(
      f"the images are too small for a discriminator of {judge.layers} strided layers; use larger ones, fewer"
      " model.widths, or loss.adversarial_weight=0."
    )
  if judge is not None and config.train.clip_norm:
    raise ValueError(
      "train.clip_norm would scale the autoencoder's gradient by the discriminator's too; set it to 0 with an"
      " adversarial loss."
    )


def preview(config, params: PyTree, frozen: PyTree, held_out: Callable[[], Source], path: pathlib.Path) -> None:
  """Writes held-out images above their reconstructions."""
  from diffjax import plots

  images = np.stack([example["image"] for example in evenly(held_out(), PREVIEWED)])
  again = devices.whole(_reconstruct(module(config), params, images))
  if processes.is_first():
    plots.save(plots.grid(np.concatenate([images, again]), columns=len(images)), path)


def memory_settings(config) -> dict[str, Any]:
  """Settings, besides the batch size, that affect the memory of a training step."""
  return {"train.accumulate": config.train.accumulate}


@functools.partial(compilation.jit, static_argnums=0)
def _reconstruct(network: AutoencoderKL, params: PyTree, images: Array) -> Array:
  return to_uint8(jnp.asarray(network.apply({"params": params["params"]}, to_float(images))))
