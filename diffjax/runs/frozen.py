"""What a latent diffusion run stands on and does not train, kept in the run's own folder."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator

import jax
import numpy as np

from diffjax import data, from_config, pretrained
from diffjax.cluster import processes
from diffjax.conditioning import Text
from diffjax.runs.autoencoder import BATCH, VAE, encoded, load_autoencoder
from diffjax.runs.folder import has_begun
from diffjax.runs.text import TEXT_ENCODER, TOKENIZER, load_text_tower
from diffjax.system import paths, writing
from diffjax.training.objectives.denoising import Frozen
from diffjax.typing import PyTree

PARTS = (VAE, TEXT_ENCODER, TOKENIZER)
"""Folders in that of a latent diffusion run."""


def load_frozen(config, workdir: str | pathlib.Path | None = None) -> PyTree:
  """What a run reads but does not train, as NumPy arrays: None for most kinds of models.

  For a latent diffusion model: a `Frozen` from the run's own folder, if it has one yet, or else from where its config
  says.

  Raises:
    ValueError, FileNotFoundError: as `load_autoencoder` and `load_text_tower`.
  """
  if from_config.kind_of(config) != "latent":
    return from_config.initial_frozen(config)
  with _kept(workdir) as kept:
    codec = load_autoencoder(config.autoencoder if kept is None else kept)
    tower = load_text_tower(config.text if kept is None else kept)
  _check(config, codec)
  captions = None
  if config.captions.templates:
    texts = from_config.latent.training_captions(config)
    captions = np.stack([tower.tokenizer(each) for each in texts])
  conditioner = Text((tower,), dropout=float(config.train.caption_dropout), captions=captions)
  return jax.tree.map(np.asarray, Frozen(codec, conditioner))


@contextlib.contextmanager
def _kept(workdir) -> Iterator[pathlib.Path | None]:
  """The local folder with what a run stands on; None until it has a checkpoint. One in a bucket is copied."""
  folder = None if workdir is None else paths.as_path(workdir)
  if folder is None or not has_begun(folder):
    yield None
  elif not paths.is_remote(folder):
    yield folder
  else:
    with tempfile.TemporaryDirectory() as local:
      for part in PARTS:
        _copy(folder / part, pathlib.Path(local) / part)
      yield pathlib.Path(local)


def _copy(source, target) -> None:
  """Copies the files of a folder, each atomically and in sorted order, from or to a bucket too."""
  target.mkdir(parents=True, exist_ok=True)
  for file in sorted(source.iterdir(), key=lambda file: file.name):
    with writing.replacing(target / file.name) as part:
      part.write_bytes(file.read_bytes())


def _check(config, codec):
  size, channels, latents = config.data.image_size, config.data.channels, config.model.out_channels
  if size % codec.downscaling:
    raise ValueError(
      f"data.image_size is {size}, but the autoencoder needs a multiple of {codec.downscaling}; change it."
    )
  if (channels, latents) != (codec.module.channels, codec.module.latent_channels):
    raise ValueError(
      f"the autoencoder maps {codec.module.channels} channels to {codec.module.latent_channels}, but"
      f" data.channels is {channels} and model.out_channels {latents}; make them agree."
    )


def keep_frozen(config, workdir: pathlib.Path, frozen: PyTree) -> None:
  """Copies what `load_frozen` loaded into the run's folder, so that it needs nothing else."""
  if from_config.kind_of(config) != "latent" or has_begun(workdir):
    return

  def write():
    codec, (tower,) = frozen.codec, frozen.conditioner.towers
    with tempfile.TemporaryDirectory() as folder:
      local = pathlib.Path(folder)
      pretrained.save_latents(local / VAE, codec)
      pretrained.save_text_tower(local / TEXT_ENCODER, local / TOKENIZER, tower)
      for part in PARTS:
        _copy(local / part, workdir / part)

  processes.from_first(write)


def captioned(config, source: data.Source, frozen: PyTree) -> data.Source:
  """The source with the tokens of its captions, where the model reads captions of the data's own."""
  if from_config.kind_of(config) != "latent" or frozen.conditioner.captions is not None:
    return source
  return data.with_tokens(source, frozen.conditioner.towers[0].tokenizer)


def in_memory(config, source: data.Source, frozen: PyTree) -> dict[str, np.ndarray]:
  """All examples of a source, as training keeps them in memory: with the moments of their latents for their images."""
  if from_config.kind_of(config) != "latent":
    return data.in_memory(source)
  codec, parts = jax.device_put(frozen.codec), []
  for start in range(0, len(source), BATCH):  # so that images are never in memory all at once
    examples = [source[i] for i in range(start, min(start + BATCH, len(source)))]
    part = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
    parts.append(part | {"moments": encoded(codec, part.pop("image"))})
  return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
