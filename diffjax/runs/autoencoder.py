"""Loads a trained autoencoder from its run, or from published weights."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import data, from_config, pretrained, randomness
from diffjax.cluster import devices
from diffjax.codecs import Latents, to_float, to_uint8
from diffjax.runs.folder import CHECKPOINTS, check_kind, existing, load_data, read_config, restore_averaged
from diffjax.system import compilation
from diffjax.typing import Array

VAE = "vae"
"""The autoencoder's folder in that of a latent diffusion model."""
MEASURED, BATCH = 1024, 64
"""Number of training images whose latents' deviation is measured, and how many are encoded at a time."""


def load_autoencoder(folder: str | pathlib.Path) -> Latents:
  """The codec of an autoencoder's run, or of a folder of published weights, whole or only its vae/.

  A run's latents are scaled to unit variance over its training images (Rombach et al. 2022, appendix G).

  Raises:
    FileNotFoundError: if the folder holds neither, or no checkpoint yet.
    ValueError: if it holds another kind of model, or is damaged.
  """
  codec, config = read_autoencoder(folder)
  if config is None:
    return codec
  examples = data.evenly(load_data(config, "train"), MEASURED)
  moments = encoded(codec, np.stack([example["image"] for example in examples]))
  z = np.asarray(codec.sample(jnp.asarray(moments), randomness.sample_keys(jax.random.key(0), len(moments))))
  if not np.isfinite(z).all() or not z.std():
    raise ValueError(
      f"the latents of {folder} are all equal, or not finite; train the autoencoder with other settings."
    )
  return dataclasses.replace(codec, scale=jnp.float32(1 / z.std()))


def read_autoencoder(folder: str | pathlib.Path) -> tuple[Latents, Any]:
  """(codec, None) of published weights; (codec, config) of a run, whose latents are not scaled yet.

  Errors as `load_autoencoder`.
  """
  path = existing(folder, "an autoencoder")
  if (path / VAE).is_dir() or not (path / CHECKPOINTS).is_dir():
    return pretrained.load_latents(path / VAE if (path / VAE).is_dir() else path), None
  config = read_config(path)
  check_kind(path, config, "autoencoder", "; give an autoencoder's.")
  params = {"params": devices.whole(restore_averaged(path, config)[0]["params"])}  # without a discriminator
  module = from_config.autoencoder.module(config).clone(dtype=jnp.float32)  # as its copies are read
  return Latents(params, jnp.float32(1.0), jnp.float32(0.0), module), config


def encoded(codec: Latents, images: np.ndarray) -> np.ndarray:
  """Images uint8 [N, H, W, C] -> the moments of their latents, float16 [N, h, w, 2 c]."""
  codec, parts = jax.device_put(codec), []
  for start in range(0, len(images), BATCH):
    part = images[start : start + BATCH]
    padded = np.concatenate([part, np.repeat(part[-1:], BATCH - len(part), axis=0)])  # one shape, compiled once
    parts.append(np.asarray(_moments(codec, padded))[: len(part)])
  return np.concatenate(parts)


def reconstructed(codec: Latents, images: np.ndarray) -> np.ndarray:
  """Images uint8 [N, H, W, C] -> what the autoencoder makes of the means of their latents, likewise."""
  moments = encoded(codec, images)
  parts = [np.asarray(_decoded(codec, moments[i : i + BATCH])) for i in range(0, len(images), BATCH)]
  return np.concatenate(parts)


@compilation.jit
def _decoded(codec: Latents, moments: Array) -> Array:
  return to_uint8(codec.decode(codec.sample(moments, None)))


def stored_moments(codec: Latents, images: Array) -> Array:
  """As `encoded`. float16 is precise to 0.1 %, far below the latents' own deviation, and takes half of the memory."""
  return codec.moments(to_float(images)).astype(jnp.float16)


_moments = compilation.jit(stored_moments)
