"""Text and image prompts for guiding a run: each is encoded to a vector once."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffjax import from_config, guidance
from diffjax.codecs import to_float
from diffjax.from_config.clip_run import ClipRun
from diffjax.from_config.configuration import default_guidance_config
from diffjax.guidance.energies.clip_targets import clip_targets, with_classes
from diffjax.system import compilation
from diffjax.typing import Array, Codec, Denoiser, Sampler

BATCH = 256


@dataclasses.dataclass
class Prompt:
  """A prompt for `Run.draw`: a CLIP energy, and how it guides the model.

  Attributes:
    energy: `guidance.ClipEnergy` of the prompts.
    config: a guidance ConfigDict.
    scale: guidance scale; None is the config's.
    asked: bool [P], the targets of the energy that an image should be classified as; None: no classification.
  """

  energy: guidance.ClipEnergy
  config: Any
  scale: float | None = None
  asked: np.ndarray | None = None

  @property
  def sampler(self) -> str | None:
    """The sampler that the config names; None: the model's own."""
    return self.config.sampler or None

  def at(self, num_steps: int, repeats: int | None = None) -> "Prompt":
    """This prompt for a number of steps, each taken `repeats` times (default: the config's)."""
    config = from_config.guidance.at_steps(self.config, num_steps)
    config.repeats = config.repeats if repeats is None else repeats
    return dataclasses.replace(self, config=config)

  def guide(
    self, denoiser: Denoiser, sampler: Sampler, codec: Codec, report: Callable[[int, float], None] | None = None
  ) -> tuple[Denoiser, Sampler]:
    """Both, guided so that the decoded x0 match the prompts; `report` as in `guidance.EnergyGuidance`."""
    guided = from_config.guidance.guided(self.config, denoiser, self.energy, codec, self.scale)
    guided = dataclasses.replace(guided, report=report)
    return guided, from_config.guidance.sampler(self.config, guided, sampler)

  def scores(self, images: np.ndarray) -> np.ndarray:
    """CLIP scores of images uint8 [N, H, W, C]: weighted cosines [N], higher is better."""
    return _by_batches(_similarity, self.energy, images)

  def accepts(self, images: np.ndarray) -> np.ndarray:
    """Whether CLIP classifies each image, uint8 or in -1..1 [N, H, W, C], as what was asked for, bool [N].

    True where the softmax shares of the `asked` targets add up to at least the config's `accept`.
    """
    scale = self.config.scale if self.scale is None else self.scale
    if self.asked is None or not self.config.accept or scale <= 0:
      return np.ones(len(images), bool)
    return _by_batches(_shares, self.energy, images) @ self.asked >= self.config.accept


def _by_batches(judge, energy, images):
  return np.concatenate([np.asarray(judge(energy, images[i : i + BATCH])) for i in range(0, len(images), BATCH)])


@compilation.jit
def _similarity(energy: guidance.ClipEnergy, images: Array) -> Array:
  return energy.similarity(_floats(images))


@compilation.jit
def _shares(energy: guidance.ClipEnergy, images: Array) -> Array:
  return energy.shares(_floats(images))


def _floats(images):
  return images if jnp.issubdtype(images.dtype, jnp.floating) else to_float(images)


def make_prompt(
  clip: ClipRun,
  prompt: str | None = None,
  *,
  image_prompts: Sequence[tuple[np.ndarray, float]] = (),
  config: Any = None,
  scale: float | None = None,
) -> Prompt:
  """Makes a `Prompt` of text and images.

  Args:
    clip: both towers.
    prompt: texts separated by |, each with a weight after :: unless it is 1; "a three|a four::-0.5" draws a three that
      does not resemble a four.
    image_prompts: images uint8 [H, W, C] of any size to resemble, with their weights.
    config: guidance config, as from `configuration.default_guidance_config` or configs/guidance.py; None: the CLIP
      run's config for text, the default for images or published weights.
    scale: guidance scale; None is the config's.

  Raises:
    ValueError: no prompt, an empty one, a weight that is not a number, all weights 0, or an invalid config.
  """
  if config is None:
    config = default_guidance_config() if image_prompts or clip.config is None else clip.config.guidance
  asked = clip_targets(clip, prompt, image_prompts)
  if config.distance == "softmax" and clip.classes is not None:
    asked = with_classes(clip.classes, asked)  # softmax shares are over all classes
  energy = from_config.guidance.clip_energy(
    config, clip.image_features, asked["targets"], asked["weights"], clip.logit_scale
  )
  return Prompt(energy, config, scale, asked.get("asked"))
