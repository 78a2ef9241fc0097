"""Words and pictures that say what to draw, as guidance of a run: each becomes a vector, once."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffjax import from_config, guidance
from diffjax.codecs import to_float
from diffjax.conditioning import ClipPrompts
from diffjax.from_config.configuration import default_guidance_config
from diffjax.runs.clip import ClipRun
from diffjax.system import compilation
from diffjax.typing import Array, Denoiser, Sampler

BATCH = 256


@dataclasses.dataclass
class Prompt:
  """What to draw, for `Run.draw`: an energy of CLIP, and how the model is guided down it.

  Attributes:
    energy: `guidance.ClipEnergy` of the prompts.
    config: a guidance ConfigDict.
    scale: of the guidance; None is the config's.
  """

  energy: guidance.ClipEnergy
  config: Any
  scale: float | None = None

  @property
  def sampler(self) -> str | None:
    """The name of the sampler that the config wants; None: the model's own."""
    return self.config.sampler or None

  def at(self, num_steps: int, repeats: int | None = None) -> "Prompt":
    """The same for a number of steps, each of them taken `repeats` times, or as often as the config says."""
    config = from_config.guidance.at_steps(self.config, num_steps)
    config.repeats = config.repeats if repeats is None else repeats
    return dataclasses.replace(self, config=config)

  def guide(
    self, denoiser: Denoiser, sampler: Sampler, report: Callable[[int, float], None] | None = None
  ) -> tuple[Denoiser, Sampler]:
    """Both, guided to the prompts; `report` as in `guidance.EnergyGuidance`."""
    guided = from_config.guidance.guided(self.config, denoiser, self.energy, self.scale)
    guided = dataclasses.replace(guided, report=report)
    return guided, from_config.guidance.sampler(self.config, guided, sampler)

  def scores(self, images: np.ndarray) -> np.ndarray:
    """How well CLIP thinks pictures uint8 [N, H, W, C] fit: weighted cosines [N], higher is better."""
    parts = [_similarity(self.energy, images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
    return np.concatenate([np.asarray(part) for part in parts])


@compilation.jit
def _similarity(energy: guidance.ClipEnergy, images: Array) -> Array:
  return energy.similarity(to_float(images))


def make_prompt(
  clip: ClipRun,
  prompt: str | None = None,
  *,
  image_prompts: Sequence[tuple[np.ndarray, float]] = (),
  config: Any = None,
  scale: float | None = None,
) -> Prompt:
  """Turns words and pictures into what to draw.

  Args:
    clip: both towers.
    prompt: texts separated by |, each with a weight after :: if it is not 1; "a three|a four::-0.5" draws a three that
      is little like a four.
    image_prompts: pictures uint8 [H, W, C] of any size to be like, with their weights.
    config: how CLIP guides, as `configuration.default_guidance_config` or configs/guidance.py make it; None: for words
      as the CLIP's run says, and for pictures, or a CLIP with published weights, that default.
    scale: of the guidance; None is the config's.

  Raises:
    ValueError: no prompt at all, an empty one, a weight that is no number, all weights 0, or a config that cannot work.
  """
  if config is None:
    config = default_guidance_config() if image_prompts or clip.config is None else clip.config.guidance
  # A share is one among all that a picture could be
  cond = ClipPrompts(clip).cond(prompt, image_prompts, clip.captions if config.distance == "softmax" else ())
  energy = from_config.guidance.clip_energy(
    config, clip.image_features, cond["targets"], cond["weights"], clip.logit_scale
  )
  return Prompt(energy, config, scale)
