"""Builds diffusion models from configs: an object for each part of a config."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffjax import (
  conditioning,
  denoisers,
  grids,
  guidance,
  networks,
  randomness,
  samplers,
  schedules,
)
from diffjax.checks import check_numbers
from diffjax.cluster import devices, processes
from diffjax.cluster.layouts import LAYOUTS
from diffjax.codecs import Pixels
from diffjax.data import Source
from diffjax.from_config import defaults
from diffjax.from_config.construction import check_steps, construct, entry_for_steps, lookup, set_fields
from diffjax.from_config.tables import (
  DTYPES,
  GRIDS,
  LOSSES,
  NOISE_LEVELS,
  PREDICTIONS,
  SAMPLERS,
  SCHEDULES,
  THRESHOLDS,
)
from diffjax.networks import contract
from diffjax.pipelines import Pipeline
from diffjax.schedules import Schedule
from diffjax.training.augmentation import AUGMENT_DIM
from diffjax.training.objectives.denoising import TEXT, DenoisingObjective, Frozen
from diffjax.typing import Array, Codec, Cond, Conditioner, Denoiser, PyTree, Sampler

NETWORKS: dict[str, Callable[..., Any]] = {
  "unet": networks.UNet,
  **{name: functools.partial(networks.UNet, **fields) for name, fields in networks.PUBLISHED.items()},
}
TEXT_NETWORKS: dict[str, Callable[..., Any]] = {
  "text_unet": networks.TextUNet,
  **{name: functools.partial(networks.TextUNet, **fields) for name, fields in networks.PUBLISHED_TEXT_UNETS.items()},
}
"""Networks that are conditioned on a text; `latent` trains them."""
NOUN: str = "a diffusion model"
NEW_KEYS: tuple[str, ...] = (
  "sampler.guidance_interval",
  "sampler.guidance_rescale",
  "sampler.threshold",
  "data.augment",
)
"""Keys missing from configs of older runs; their defaults reproduce the behaviour of those runs."""
MAX_PIXELS = 2**20
PREVIEWED = 64
"""Number of pictures in a preview."""


def default_config() -> Any:
  """A diffusion model's ConfigDict with every key that train.py and sample.py read; files in configs/ fill it in."""
  config = common_config()
  config.model = defaults.fields(networks.UNet)
  config.data.augment = 0.0
  config.train.update(label_dropout=0.0, bound_weight=0.0)
  return config


def common_config() -> Any:
  """A ConfigDict with the keys that diffusion models of pixels and of latents share."""
  config = defaults.common()
  config.update(schedule={}, prediction={}, time_scale=1.0, loss={})
  config.train.stratified = False
  config.sampler = dict(
    name="dpmpp_2m",
    steps=20,
    guidance_scale=1.0,
    guidance_interval=(0.0, 1e6),  # above every sigma; JSON has no infinity
    guidance_rescale=0.0,
    threshold=dict(name="none"),
    options={},
    grids={},
  )
  return config


def module(config) -> Any:
  """The Linen network of a config."""
  fields = set_fields(config.model)
  if "dtype" in fields:
    fields["dtype"] = lookup(DTYPES, "dtype", fields["dtype"])
  return construct(NETWORKS | TEXT_NETWORKS, "network", fields, out_channels=config.data.channels)


def num_classes(config) -> int:
  """Number of class labels; 0 for an unconditional model."""
  return contract(module(config)).num_classes


def image_shape(config) -> tuple[int, int, int]:
  """(H, W, C) of the model's images."""
  return *defaults.image_size(config), config.data.channels


def schedule(config) -> Schedule:
  """A config's schedule; the additional keys `zero_terminal_snr` and `shift` rescale and shift it.

  Raises:
    ValueError: an unknown name or key, or zero_terminal_snr for a schedule that is not discrete.
  """
  spec = dict(config.schedule)
  shift, rescale = spec.pop("shift", 1.0), spec.pop("zero_terminal_snr", False)
  made = construct(SCHEDULES, "schedule", spec)
  if rescale:
    made = schedules.zero_terminal_snr(made)
  return made if shift == 1.0 else schedules.Shifted(made, shift)


def prediction(config) -> denoisers.Prediction:
  return construct(PREDICTIONS, "prediction", config.prediction)


def codec(config) -> Codec:
  """Between pictures and the model's x0: the pixels themselves."""
  return Pixels()


def conditioner(config) -> Conditioner:
  """The model's conditioner: class labels, or none."""
  can = contract(module(config))
  if not can.num_classes:
    return conditioning.Unconditional()
  dropout = config.train.label_dropout
  return conditioning.Labels(dropout, num_classes=can.num_classes, null_label=can.null_label)


def denoiser(config, params: PyTree) -> denoisers.NetworkDenoiser:
  """A config's network with the given parameters as a denoiser."""
  return common_objective(config).denoiser(params)


def guided(config, denoiser: Denoiser, null_cond: Cond = None, scale: float | None = None) -> Denoiser:
  """Adds classifier-free guidance, if `scale` is given, and thresholding, as set in a config's `sampler`."""
  if scale is not None:
    check_numbers({"guidance_scale": scale})
    low, high = map(float, config.sampler.guidance_interval)
    rescale = float(config.sampler.guidance_rescale)
    denoiser = guidance.ClassifierFree(denoiser, null_cond, float(scale), (low, high), rescale)
  return construct(THRESHOLDS, "threshold", config.sampler.threshold, denoiser)


def objective(config) -> DenoisingObjective:
  """The training objective of a config."""
  return dataclasses.replace(
    common_objective(config),
    codec=codec(config),
    conditioner=conditioner(config),
    bound_weight=config.train.bound_weight,
    augment=float(config.data.augment),
    hybrid=config.train.bound_weight > 0,
  )


def common_objective(config) -> DenoisingObjective:
  """The part of the training objective that diffusion models of pixels and of latents share."""
  parts = {"schedule": schedule(config), "prediction": prediction(config)}
  return DenoisingObjective(
    **parts,
    noise_levels=construct(NOISE_LEVELS, "noise level distribution", config.noise_levels, **parts),
    weight=construct(LOSSES, "loss", config.loss, **parts),
    time_scale=config.time_scale,
    module=module(config),
    batch_size=config.train.batch_size,
    stratified=config.train.stratified,
    flip=config.data.flip,
  )


def initial_params(config, key: Array, frozen: PyTree = None) -> PyTree:
  """Initial parameters of the network."""
  cond = {"label": jnp.zeros((1,), jnp.int32)} if num_classes(config) else None
  return module(config).init(key, jnp.zeros((1, *image_shape(config))), jnp.zeros(()), cond)


def initial_frozen(config) -> PyTree:
  """What training reads but does not change: nothing."""
  return None


def bounds(config) -> tuple:
  """Constraints applied to the parameters after each update: none."""
  return ()


def grid(config, num_steps: int, name: str | None = None) -> Array:
  """The noise levels for `num_steps` network calls of a one-call method.

  The config recommends grids by number of steps: `sampler.grids` maps a minimum number of steps to a grid. A `name`
  selects that grid with its defaults instead.

  Raises:
    ValueError: an unknown name or key, or levels that do not descend strictly.
  """
  grids.check_num_steps(num_steps)
  spec = {"name": name}
  if name is None:
    spec = entry_for_steps(config.sampler.grids, num_steps)
    if spec is None:
      raise ValueError(f"sampler.grids names no grid for {num_steps} steps; add one under the key '1', or name a grid.")
  return _grid(config, spec, num_steps)


def _grid(config, spec, num_steps):
  try:
    return construct(GRIDS, "grid", spec, num_steps, schedule=schedule(config))
  except ValueError as error:
    raise ValueError(f"the grid {dict(spec)} in {num_steps} steps cannot be used: {error}") from None


def sampler(config, name: str | None = None, steps: int | None = None, /, **options: float) -> Sampler:
  """A sampler by name (default: the config's own, with `sampler.options`), with those `options` that are not None.

  With "ddpm" a network with a learned variance uses it. Churn is spread over the grid's `steps`.

  Raises:
    ValueError: an unknown name, or an option that the sampler lacks or that is out of range.
  """
  given = {key: value for key, value in options.items() if value is not None}
  if name is None or name == config.sampler.name:
    name, given = config.sampler.name, dict(config.sampler.options) | given
  if name == "ddpm":
    given = {"learned": contract(module(config)).learned_variance} | given
  made = schedule(config)
  own = {"scaling": made.scaling, "schedule": made, "noise": randomness.normal}
  if given.get("s_churn") is not None:
    own["num_steps"] = steps or config.sampler.steps
  return construct(SAMPLERS, "sampler", {"name": name, **given}, **own)


def check(config) -> None:
  """Raises ValueError for the first mistake in a diffusion model's config, including its sampling."""
  train = config.train
  if config.model.get("multipliers") == ():
    raise ValueError("model.multipliers is empty; give one for each level, such as (1, 2, 2).")
  made, can = schedule(config), contract(module(config))
  if can.cross_attention:
    raise ValueError(
      "model.cross_attention=True cannot be trained from a config, which has no text or other context; unset it, or"
      " train the network from Python with cond['context']."
    )
  if train.label_dropout > 0 and can.num_classes and not can.null_label:
    raise ValueError("train.label_dropout needs a network with a null label; set model.null_label=True, or drop none.")
  if config.data.augment > 0 and can.augment_dim != AUGMENT_DIM:
    raise ValueError(f"data.augment needs a network conditioned on it; set model.augment_dim={AUGMENT_DIM}.")
  if train.bound_weight > 0 and not (can.learned_variance and isinstance(made, schedules.Discrete)):
    raise ValueError(
      "train.bound_weight needs a learned variance and a discrete schedule; set model.learned_variance=True and a"
      " schedule such as 'linear', without a shift."
    )
  check_common(config)


def check_common(config) -> None:
  """Raises ValueError for the first mistake in what diffusion models of pixels and of latents share."""
  made, can = schedule(config), contract(module(config))
  low, high = made.sigma(made.t_min), made.sigma(made.t_max)
  if not 0 < low < high:
    raise ValueError(
      f"schedule goes from sigma {low:.3g} to {high:.3g}, but must rise from above 0; check its numbers."
    )
  denoisers.check_prediction(prediction(config), made)
  in_time = not isinstance(prediction(config), denoisers.EDM | denoisers.Consistency)
  largest = made.t_max * config.time_scale
  if in_time and largest < can.largest_c_noise_at_least:
    raise ValueError(
      f"c_noise is at most {largest:.3g}, too small for the network's embedding to tell noise levels apart; set"
      " time_scale=1000."
    )
  interval = tuple(config.sampler.guidance_interval)
  if len(interval) != 2 or not interval[0] < interval[1]:
    raise ValueError(
      f"sampler.guidance_interval is {interval}, but must be two noise levels, the lower one first; correct it."
    )
  check_steps(config.sampler.grids, "sampler.grids")
  for steps, spec in config.sampler.grids.items():
    _grid(config, spec, max(int(steps), 2))  # one step would check only the first level
  sigmas, method = grid(config, config.sampler.steps), sampler(config)
  if isinstance(method, samplers.Restart):
    method.check_grid(sigmas)
  construct(THRESHOLDS, "threshold", config.sampler.threshold, None)


@dataclasses.dataclass(frozen=True)
class Defaults:
  """Sampling defaults from a run's config; implements `pipelines.Defaults`."""

  config: Any
  batch_size: int = 256

  @property
  def steps(self) -> int:
    return self.config.sampler.steps

  @property
  def guidance_scale(self) -> float:
    return self.config.sampler.guidance_scale

  @property
  def sampler_name(self) -> str:
    return self.config.sampler.name

  def grid(self, num_steps: int, name: str | None = None) -> Array:
    return grid(self.config, num_steps, name)

  def start_std(self, sigma: Array) -> Array:
    return sigma

  def sampler(self, name: str | None, steps: int, /, **options: Any) -> Sampler:
    return sampler(self.config, name, steps, **options)

  def guided(self, denoiser: Denoiser, null_cond: Cond = None, scale: float | None = None) -> Denoiser:
    return guided(self.config, denoiser, null_cond, scale)


def latent_batch_size(shape: tuple[int, int, int]) -> int:
  """How many images of a latent model are drawn at a time: a megapixel, as decoding them takes far more memory."""
  return min(max(MAX_PIXELS // (shape[0] * shape[1]), 1), Defaults.batch_size)


def pipeline(config, params: PyTree, frozen: Frozen | None = None) -> Pipeline:
  """A config's model with the given parameters, ready for sampling; `frozen` is that of a latent diffusion model."""
  if frozen is not None:
    trained_along = {name: devices.whole(params[name]) for name in params if name == TEXT}  # each process encodes texts
    params, frozen = frozen.completed(params | trained_along)
  return Pipeline(
    denoiser=denoiser(config, params),
    image_shape=image_shape(config),
    defaults=Defaults(config) if frozen is None else Defaults(config, latent_batch_size(image_shape(config))),
    codec=codec(config) if frozen is None else frozen.codec,
    conditioner=conditioner(config) if frozen is None else frozen.conditioner,
    layout=LAYOUTS[config.parallel],
  )


def preview(config, params: PyTree, frozen: PyTree, held_out: Callable[[], Source], path: pathlib.Path) -> None:
  """Writes a grid of samples, of all classes if there are any."""
  from diffjax import plots

  classes = num_classes(config)
  labels = np.arange(PREVIEWED) % classes if classes else None
  drawn = pipeline(config, params).draw(PREVIEWED, labels=labels, batch_size=PREVIEWED)
  if processes.is_first():
    plots.save(plots.grid(drawn.images), path)


def memory_settings(config) -> dict[str, Any]:
  """Settings, besides the batch size, that affect the memory of a training step."""
  remat = contract(module(config)).remat
  return {"train.accumulate": config.train.accumulate} | ({} if remat is None else {"model.remat": remat})
