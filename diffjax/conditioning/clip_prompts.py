import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffjax.conditioning.text import split_prompt


@dataclasses.dataclass(frozen=True)
class ClipPrompts:
  """Texts and pictures as CLIP vectors, for guidance by an energy that compares pictures with them.

  Attributes:
    clip: anything with `encode_texts` (T texts -> unit vectors [T, D]) and `encode_pictures` (uint8 [N, H, W, C] ->
      unit vectors [N, D]), such as the result of `runs.load_clip`.
  """

  clip: Any

  def cond(
    self, prompt: str | None = None, image_prompts: Sequence[tuple[np.ndarray, float]] = ()
  ) -> dict[str, np.ndarray]:
    """{"targets": unit vectors [P, D], "weights": [P]} of what to draw.

    Args:
      prompt: texts separated by |, each with a weight after :: if it is not 1; "a three|a four::-0.5" asks for a three
        that is unlike a four.
      image_prompts: pictures uint8 [H, W, C] of any size to resemble, with their weights.

    Raises:
      ValueError: an empty text, a weight that is not a finite number, or neither texts nor pictures.
    """
    texts = split_prompt(prompt or "") if prompt is not None or not image_prompts else []
    targets = [self.clip.encode_texts([text for text, _ in texts])] if texts else []
    targets += [self.clip.encode_pictures(image[None]) for image, _ in image_prompts]
    weights = [weight for _, weight in (*texts, *image_prompts)]
    return {"targets": np.concatenate(targets), "weights": np.asarray(weights, np.float32)}


def with_classes(classes: np.ndarray, cond: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """A cond of `ClipPrompts` with classes, unit vectors [C, D], added as alternatives with weight 0.

  "asked", bool [P + C], marks what a picture should be classified as: targets with a positive weight, and the class
  nearest to each. If no weight is positive, it marks every class except those nearest to the negative targets.
  """
  targets, weights = cond["targets"], cond["weights"]
  wanted = weights > 0
  nearest = np.argmax(targets @ classes.T, axis=1)
  named = np.isin(np.arange(len(classes)), nearest[wanted] if wanted.any() else nearest)
  return {
    "targets": np.concatenate([targets, classes]),
    "weights": np.concatenate([weights, np.zeros(len(classes), np.float32)]),
    "asked": np.concatenate([wanted, named if wanted.any() else ~named]),
  }
