"""Builds CLIP guidance from its config: the energy, the method, and the sampler that the method needs."""

from collections.abc import Callable, Sequence

import numpy as np
from jax.tree_util import Partial

from diffjax import guidance, samplers, schedules
from diffjax.checks import check_in, check_numbers
from diffjax.codecs import Pixels
from diffjax.from_config.construction import check_steps, construct, entry_for_steps, lookup
from diffjax.guidance.training_free import posterior_sampling
from diffjax.networks import ImageFeatures
from diffjax.typing import Array, Codec, Denoiser, Sampler

VIEWS: dict[str, Callable] = {
  "none": lambda: None,
  "small_views": guidance.small_views,
  "cutouts": guidance.Cutouts,
}
PENALTIES: dict[str, guidance.energy.Energy] = {
  "total_variation": Partial(guidance.penalties.total_variation),
  "out_of_range": Partial(guidance.penalties.out_of_range),
  "saturation": Partial(guidance.penalties.saturation),
}
METHODS: dict[str, Callable[..., guidance.EnergyGuidance]] = {
  "energy": guidance.EnergyGuidance,
  "disco": guidance.disco,
  "dps": posterior_sampling,
  "lgd": guidance.lgd,
  "mpgd": guidance.mpgd,
  "freedom": guidance.freedom,
  "universal": guidance.universal,
  "training_free": guidance.training_free,
}


def at_steps(config, num_steps: int):
  """A guidance config for a number of steps, with the overrides that its `by_steps` has for it.

  Raises:
    ValueError: an unknown key in `by_steps`, one that is not a number of steps, or `accept` out of range.
  """
  check_steps(config.by_steps, "by_steps of guidance")
  config = config.copy_and_resolve_references()
  for key, value in (entry_for_steps(config.by_steps, num_steps) or {}).items():
    lookup(config, "key of guidance", key)
    config[key] = value
  check_in("[0, 1)", accept=config.accept)
  return config


def check(config, image_features: ImageFeatures) -> None:
  """Raises ValueError for the first mistake in a guidance config, for any number of steps."""
  for steps in ("1", *config.by_steps):
    entry = at_steps(config, int(steps))
    if entry.sampler:
      lookup(samplers.METHODS, "sampler", entry.sampler)
    energy = clip_energy(entry, image_features, np.eye(2), (1, 0), 1.0)
    sampler(entry, guided(entry, lambda x, sigma, cond=None, *, key=None: x, energy, Pixels()), samplers.Euler())


def clip_energy(
  config,
  image_features: ImageFeatures,
  targets: Array | np.ndarray,
  weights: Sequence[float] | np.ndarray,
  logit_scale: float,
) -> guidance.ClipEnergy:
  """The energy of a guidance config, a distance of images to unit vectors [P, D]; ValueError without `views`."""
  if "views" not in config:
    raise ValueError("the guidance config has no 'views'; use default_guidance_config(), as in configs/guidance.py.")
  views = construct(VIEWS, "kind of views", config.views, size=image_features.module.image_size)
  return guidance.clip(image_features, targets, weights, distance=config.distance, views=views, logit_scale=logit_scale)


def guided(
  config, denoiser: Denoiser, energy: guidance.ClipEnergy, codec: Codec, scale: float | None = None
) -> guidance.EnergyGuidance:
  """A denoiser guided down `scale` (default: the config's) times an energy of pictures, plus the config's penalties."""
  scale = config.scale if scale is None else scale
  check_numbers({"guidance_scale": scale})
  penalties = [lookup(PENALTIES, "penalty", name) for name in config.penalties]
  weights = (float(scale), *map(float, config.penalties.values()))
  method = {"name": config.method, **config.options}
  total = guidance.DecodedEnergy(guidance.energies(energy, *penalties, weights=weights), codec)
  return construct(METHODS, "guidance method", method, denoiser, total)


def sampler(config, guided: guidance.EnergyGuidance, sampler: Sampler) -> Sampler:
  """Wraps a sampler as guidance needs it: some methods shift the end of each step; steps are taken `repeats` times."""
  if guided.position != "score":
    # DPS and FreeDoM compute an update at the step's start and add it to x_t at its end; training-free moves x0
    preserving = guided.position == "mean" and config.method != "training_free"
    scaling = schedules.variance_preserving if preserving else schedules.variance_exploding
    sampler = samplers.MeanGuided(sampler, scaling)
  if config.repeats == 1:
    return sampler
  return samplers.Recurrent(sampler, config.repeats, tuple(config.repeat_interval))
