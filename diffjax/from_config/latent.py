"""Builds text-to-image models from configs: diffusion in an autoencoder's latents, or of pixels."""

import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffjax import networks, randomness
from diffjax.cluster import processes
from diffjax.codecs import Pixels
from diffjax.data import Source, captions
from diffjax.from_config import defaults, diffusion
from diffjax.networks import contract
from diffjax.training.objectives.denoising import TEXT, Frozen
from diffjax.typing import Array, PyTree

NETWORKS: dict[str, Callable[..., Any]] = diffusion.TEXT_NETWORKS
NOUN: str = "a latent diffusion model"
NEW_KEYS: tuple[str, ...] = ("captions.length", "data.buckets", "train.text_encoder")
"""Keys missing from configs of older runs; their defaults reproduce the behaviour of those runs."""
PIXELS = "pixels"
"""What `autoencoder` is for a model without one."""
PREVIEWED = 60
"""Number of pictures in a preview."""
STRIDE = 7919
"""Between the captions of a preview: a large prime, which visits all of them in an order without a pattern."""
bounds, objective, memory_settings = diffusion.bounds, diffusion.common_objective, diffusion.memory_settings


def default_config() -> Any:
  """A latent diffusion model's ConfigDict with every key that train.py and sample.py read."""
  config = diffusion.common_config()
  config.autoencoder = ""
  config.text = ""
  config.init_from = ""
  config.model = defaults.fields(networks.TextUNet)
  config.model.update(name="text_unet", out_channels=4)
  config.schedule.update(name="scaled_linear", num_steps=1000, beta_start=0.00085, beta_end=0.012)
  config.prediction.name = "v"
  config.loss.name = "simple"
  config.captions = dict(names={}, templates=(), held_out=(), length=defaults.unset(int))  # None: the text encoder's
  config.data.buckets = ()  # sizes of images, as from data.bucket_sizes
  config.train.update(caption_dropout=0.1, text_encoder=False)
  return config


def num_classes(config) -> int:
  """Number of classes in the captions; 0 if the data has its own."""
  return len(training_captions(config)[0]) if config.captions.templates else 0


def training_captions(config) -> list[list[str]]:
  """The captions that labelled images are trained with, [templates][classes]."""
  return captions(config.captions.templates, config.captions.names)


def held_out_captions(config) -> list[list[str]]:
  """The captions not used in training, [templates][classes]."""
  return captions(config.captions.held_out, config.captions.names)


def initial_params(config, key: Array, frozen: PyTree = None) -> PyTree:
  """Initial parameters of the network, for the latents and the text states of what is frozen."""
  assert isinstance(frozen, Frozen)
  shape = diffusion.image_shape(config)
  x = jax.eval_shape(frozen.codec.encode, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
  length = frozen.conditioner.towers[0].tokenizer.length
  batch = {"tokens": jax.ShapeDtypeStruct((1, length), jnp.int32)}
  keys = jax.eval_shape(lambda: randomness.sample_keys(jax.random.key(0), 1))
  cond = jax.eval_shape(frozen.conditioner.training_cond, batch, keys)
  zeros = lambda tree: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), tree)
  params = diffusion.module(config).init(key, zeros(x), jnp.zeros(()), zeros(cond))
  # zeros here: `runs.load_start` has the text encoder's values
  return params | ({TEXT: zeros(frozen.conditioner.towers[0].params)} if config.train.text_encoder else {})


def _is_size(size) -> bool:
  return isinstance(size, list | tuple) and len(size) == 2 and all(type(n) is int and 0 < n <= 2**16 for n in size)


def pixels(config) -> Pixels | None:
  """The codec of a model of pixels, whose patches follow from its channels; None if there is none."""
  area, rest = divmod(config.model.out_channels, config.data.channels)
  patch = math.isqrt(max(area, 0))
  return Pixels(patch) if rest == 0 and patch**2 == area > 0 else None


def initial_frozen(config) -> PyTree:
  """Nothing that the config alone defines: `runs.load_frozen` reads it from other runs."""
  return None


def check(config) -> None:
  """Raises ValueError for the first mistake in a latent diffusion model's config, including its sampling."""
  for key in ("autoencoder", "text"):
    if not config[key]:
      raise ValueError(f"{key} is empty; give the run, or the folder of published weights, that the model stands on.")
  if config.autoencoder == PIXELS and pixels(config) is None:
    channels = config.data.channels
    raise ValueError(
      f"model.out_channels is {config.model.out_channels}, but must be data.channels times the pixels of a square patch"
      f" for a model of pixels; set it to {channels}, or to {4 * channels} for patches of 2 x 2."
    )
  module = diffusion.module(config)
  can = contract(module)
  if not can.cross_attention:
    raise ValueError(f"the network {config.model.name!r} reads no text; use one of {', '.join(sorted(NETWORKS))}.")
  needs = [name for name in ("size_dim", "num_labels", "guidance_dim") if getattr(module, name)]
  if needs:
    raise ValueError(
      f"the network {config.model.name!r} has {needs[0]}, and reads more than a text; train 'text_unet', or"
      " 'stable_diffusion_1' or 'stable_diffusion_2'."
    )
  if config.data.flip and config.data.in_memory and config.autoencoder != PIXELS:
    raise ValueError("data.flip needs images, but latents are computed once; set data.in_memory=False, or do not flip.")
  if config.data.buckets and config.train.steps_per_call > 1:
    raise ValueError("with data.buckets each step may have images of another size; set train.steps_per_call=1.")
  if not all(map(_is_size, config.data.buckets)):
    raise ValueError(f"data.buckets is {config.data.buckets}; give sizes (H, W), as from diffjax.data.bucket_sizes.")
  if not 0 <= config.train.caption_dropout < 1:
    raise ValueError(f"train.caption_dropout is {config.train.caption_dropout}, but must be in [0, 1); try 0.1.")
  if config.captions.templates:
    training_captions(config)
  diffusion.check_common(config)


def preview(config, params: PyTree, frozen: PyTree, held_out: Callable[[], Source], path: pathlib.Path) -> None:
  """Writes a grid of samples, each of another caption."""
  from diffjax import plots

  if config.captions.templates:
    texts = [text for template in training_captions(config) for text in template]
  else:
    source = held_out()
    assert source.text is not None
    texts = [source.text(source.records[i]) for i in range(min(PREVIEWED, len(source)))]
    texts = [text for text in texts if text.strip()] or ["a picture"]
  chosen = [texts[i * STRIDE % len(texts)] for i in range(PREVIEWED)]
  drawn = diffusion.pipeline(config, params, frozen).draw(PREVIEWED, prompt=chosen, prompt_syntax="plain")
  if processes.is_first():
    plots.save(plots.grid(drawn.images), path)
