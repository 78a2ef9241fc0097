"""Builds autoencoders from configs, and their training objective."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffjax.cluster import devices, processes
from diffjax.codecs import to_float, to_uint8
from diffjax.data import Source, evenly
from diffjax.from_config import defaults
from diffjax.from_config.construction import construct, lookup, set_fields
from diffjax.from_config.tables import DTYPES
from diffjax.networks import AutoencoderKL
from diffjax.system import compilation
from diffjax.training.objectives.autoencoder import AutoencoderObjective
from diffjax.typing import Array, PyTree

NETWORKS: dict[str, Callable[..., Any]] = {"autoencoder_kl": AutoencoderKL}
NOUN: str = "an autoencoder"
NEW_KEYS: tuple[str, ...] = ()
PREVIEWED = 10
"""Number of images in a preview."""


def default_config() -> Any:
  """An autoencoder's ConfigDict with every key that train.py reads; files in configs/ fill it in."""
  config = defaults.common()
  config.model = defaults.fields(AutoencoderKL)
  config.model.name = "autoencoder_kl"
  config.loss = dict(kl_weight=1e-6)
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
  return AutoencoderObjective(float(config.loss.kl_weight), module=module(config), flip=config.data.flip)


def initial_params(config, key: Array, frozen: PyTree = None) -> PyTree:
  """Initial parameters of both halves."""
  size = config.data.image_size
  return module(config).init(key, jnp.zeros((1, size, size, config.data.channels)))


def initial_frozen(config) -> PyTree:
  """What training reads but does not change: nothing."""
  return None


def bounds(config) -> tuple:
  """Constraints applied to the parameters after each update: none."""
  return ()


def check(config) -> None:
  """Raises ValueError for the first mistake in an autoencoder's config."""
  made, size = module(config), config.data.image_size
  if size % made.downscaling:
    raise ValueError(
      f"data.image_size is {size}, but this autoencoder needs a multiple of {made.downscaling}; change it, or the"
      " number of model.widths."
    )
  for width in made.widths:
    if width % made.num_groups:
      raise ValueError(
        f"{width} channels do not split into {made.num_groups} groups; change model.widths or model.num_groups."
      )
  if not config.loss.kl_weight >= 0:
    raise ValueError(f"loss.kl_weight is {config.loss.kl_weight}, but must not be negative; use 1e-6, for example.")


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
  return to_uint8(jnp.asarray(network.apply(params, to_float(images))))
