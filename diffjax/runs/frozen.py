"""What a latent diffusion run stands on and does not train, kept in the run's own folder."""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import data, from_config, pretrained
from diffjax.cluster import devices, processes
from diffjax.codecs import Latents
from diffjax.conditioning import Text, TextTower
from diffjax.networks import ImageFeatures
from diffjax.runs.autoencoder import BATCH, VAE, encoded, load_autoencoder
from diffjax.runs.clip import load_clip
from diffjax.runs.folder import CHECKPOINTS, CONFIG, existing, has_begun, read_config, restore_averaged
from diffjax.runs.text import TEXT_ENCODER, TOKENIZER, read_text_tower
from diffjax.system import paths, writing
from diffjax.training.objectives.denoising import TEXT, Frozen
from diffjax.typing import PyTree

IMAGE_ENCODER = "image_encoder"
"""That of an autoencoder's perceptual loss."""
PARTS = (VAE, TEXT_ENCODER, TOKENIZER, IMAGE_ENCODER)
"""Folders in that of a run, with what it stands on."""


def load_frozen(config, workdir: str | pathlib.Path | None = None) -> PyTree:
  """What a run reads but does not train, as NumPy arrays: None for most kinds of models.

  For an autoencoder with a perceptual loss: the image encoder of its CLIP. For a latent diffusion model: a `Frozen`
  from the run's own folder, if it has one yet, or else from where its config says.

  Raises:
    ValueError, FileNotFoundError: as `load_autoencoder`, `load_text_tower` and `load_clip`.
  """
  if from_config.kind_of(config) == "autoencoder" and config.loss.perceptual:
    with _kept(workdir) as kept:
      encoder = load_clip(config.loss.perceptual).image_features if kept is None else _image_encoder(kept)
    return jax.tree.map(np.asarray, dataclasses.replace(encoder, module=encoder.module.clone(dtype=jnp.float32)))
  if from_config.kind_of(config) != "latent":
    return from_config.initial_frozen(config)
  with _kept(workdir) as kept:
    pixels = from_config.latent.pixels(config) if config.autoencoder == from_config.latent.PIXELS else None
    codec = pixels or load_autoencoder(config.autoencoder if kept is None else kept)
    tower = load_text_tower(config.text) if kept is None else read_text_tower(kept)
  _check(config, codec)
  length = config.captions.length or tower.tokenizer.length
  if length > tower.module.context and not config.train.text_encoder:
    raise ValueError(
      f"captions.length is {length}, but the text encoder has only {tower.module.context} positions; lower it, or train"
      " new ones by train.text_encoder=True."
    )
  tower = tower.with_length(length)
  captions = None
  if config.captions.templates:
    texts = from_config.latent.training_captions(config)
    captions = np.stack([tower.tokenizer(each) for each in texts])
  conditioner = Text((tower,), dropout=float(config.train.caption_dropout), captions=captions)
  return jax.tree.map(np.asarray, Frozen(codec, conditioner))


def load_text_tower(folder: str | pathlib.Path) -> TextTower:
  """The text encoder of a CLIP's run or of published weights, as `read_text_tower`, or of a latent diffusion run.

  If that run trains its text encoder along, with the averaged parameters of its newest checkpoint.

  Raises:
    FileNotFoundError, ValueError: as `read_text_tower`.
  """
  path = existing(folder, "a CLIP")
  tower = read_text_tower(path)
  if not ((path / TEXT_ENCODER).is_dir() and (path / CONFIG).is_file() and (path / CHECKPOINTS).is_dir()):
    return tower
  config = read_config(path)
  if not config.to_dict()["train"]["text_encoder"]:
    return tower
  params, _ = restore_averaged(path, config, frozen=load_frozen(config, path))
  return dataclasses.replace(tower, params=devices.whole(params[TEXT]))


def _image_encoder(folder: pathlib.Path) -> ImageFeatures:
  module, params = pretrained.load_image_encoder(folder / IMAGE_ENCODER)
  return ImageFeatures(params, module, **pretrained.load_preprocessing(folder / IMAGE_ENCODER))


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
        if (folder / part).is_dir():
          _copy(folder / part, pathlib.Path(local) / part)
      yield pathlib.Path(local)


def _copy(source, target) -> None:
  """Copies the files of a folder, each atomically and in sorted order, from or to a bucket too."""
  target.mkdir(parents=True, exist_ok=True)
  for file in sorted(source.iterdir(), key=lambda file: file.name):
    with writing.replacing(target / file.name) as part:
      part.write_bytes(file.read_bytes())


def _check(config, codec):
  for size in (from_config.image_size(config), *config.data.buckets):
    if any(side % codec.downscaling for side in size):
      raise ValueError(
        f"images are {size[0]} x {size[1]}, but this model needs a multiple of {codec.downscaling}; change"
        " data.image_size, data.image_width or data.buckets."
      )
  if not isinstance(codec, Latents):
    return
  channels, latents = config.data.channels, config.model.out_channels
  if (channels, latents) != (codec.module.channels, codec.module.latent_channels):
    raise ValueError(
      f"the autoencoder maps {codec.module.channels} channels to {codec.module.latent_channels}, but"
      f" data.channels is {channels} and model.out_channels {latents}; make them agree."
    )


def keep_frozen(workdir: pathlib.Path, frozen: PyTree) -> None:
  """Copies what `load_frozen` loaded into the run's folder, so that it needs nothing else."""
  if not isinstance(frozen, Frozen | ImageFeatures) or has_begun(workdir):
    return

  def write():
    with tempfile.TemporaryDirectory() as folder:
      local = pathlib.Path(folder)
      if isinstance(frozen, ImageFeatures):
        pretrained.save_image_encoder(local / IMAGE_ENCODER, frozen.module, frozen.params)
        pretrained.save_preprocessing(local / IMAGE_ENCODER, frozen.mean, frozen.std, frozen.crop)
      else:
        (tower,) = frozen.conditioner.towers
        if isinstance(frozen.codec, Latents):
          pretrained.save_latents(local / VAE, frozen.codec)
        pretrained.save_text_tower(local / TEXT_ENCODER, local / TOKENIZER, tower)
      for part in PARTS:
        if (local / part).is_dir():
          _copy(local / part, workdir / part)

  processes.from_first(write)


def captioned(config, source: data.Source, frozen: PyTree) -> data.Source:
  """The source with the tokens of its captions, where the model reads captions of the data's own."""
  if from_config.kind_of(config) != "latent" or frozen.conditioner.captions is not None:
    return source
  return data.with_tokens(source, frozen.conditioner.towers[0].tokenizer)


def encoded_once(source: data.Source, frozen: PyTree) -> data.Source:
  """The source with the moments of its images' latents, computed now and kept in memory, in place of the images.

  Unchanged for a model without latents.
  """
  if not (isinstance(frozen, Frozen) and isinstance(frozen.codec, Latents)):
    return source
  codec, examples = jax.device_put(frozen.codec), [{}] * len(source)
  for ids in source.by_group():
    for start in range(0, len(ids), BATCH):  # so that images are never in memory all at once
      part = [source[int(i)] for i in ids[start : start + BATCH]]
      moments = encoded(codec, np.stack([example.pop("image") for example in part]))
      for i, example, own in zip(ids[start:], part, moments):
        examples[i] = example | {"moments": own}
  return dataclasses.replace(source, records=examples, decode=lambda example: example, text=None)
