import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffjax.conditioning.text import split_prompt


@dataclasses.dataclass(frozen=True)
class ClipPrompts:
  """Words and pictures as CLIP's vectors, for guidance by an energy that compares pictures with them.

  Attributes:
    clip: anything with `encode_texts` (T texts -> unit vectors [T, D]) and `encode_pictures` (uint8 [N, H, W, C] ->
      unit vectors [N, D]), such as `runs.load_clip` gives.
  """

  clip: Any

  def cond(
    self, prompt: str | None = None, image_prompts: Sequence[tuple[np.ndarray, float]] = ()
  ) -> dict[str, np.ndarray]:
    """{"targets": unit vectors [P, D], "weights": [P]} of what to draw.

    Args:
      prompt: texts separated by |, each with a weight after :: if it is not 1; "a three|a four::-0.5" asks for a three
        that is little like a four.
      image_prompts: pictures uint8 [H, W, C] of any size to be like, with their weights.

    Raises:
      ValueError: an empty text, a weight that is no number, or nothing at all.
    """
    texts = split_prompt(prompt or "") if prompt is not None or not image_prompts else []
    targets = [self.clip.encode_texts([text for text, _ in texts])] if texts else []
    targets += [self.clip.encode_pictures(image[None]) for image, _ in image_prompts]
    weights = [weight for _, weight in (*texts, *image_prompts)]
    return {"targets": np.concatenate(targets), "weights": np.asarray(weights, np.float32)}


def among(classes: np.ndarray, cond: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """A cond of `ClipPrompts` with classes, unit vectors [C, D], as further targets of weight 0, to be told from.

  "asked", bool [P + C], marks what a picture should be read as: what has a positive weight, and the class nearest it.
  Where nothing has one, it is every class but those nearest to what the picture should not be.
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
