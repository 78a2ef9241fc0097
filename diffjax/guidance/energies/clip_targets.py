"""Texts and pictures as the targets of a CLIP energy."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffjax.conditioning import split_prompt


def clip_targets(
  clip: Any, prompt: str | None = None, image_prompts: Sequence[tuple[np.ndarray, float]] = ()
) -> dict[str, np.ndarray]:
  """{"targets": unit vectors [P, D], "weights": [P]} of what to draw, for `guidance.clip`.

  They are not a `cond`: no network reads them, only an energy compares pictures with them.

  Args:
    clip: anything with `encode_texts` (T texts -> unit vectors [T, D]) and `encode_pictures` (uint8 [N, H, W, C] ->
      unit vectors [N, D]), such as the result of `runs.load_clip`.
    prompt: texts separated by |, each with a weight after :: if it is not 1; "a three|a four::-0.5" asks for a three
      that is unlike a four.
    image_prompts: pictures uint8 [H, W, C] of any size to resemble, with their weights.

  Raises:
    ValueError: an empty text, a weight that is not a finite number, or neither texts nor pictures.
  """
  texts = split_prompt(prompt or "") if prompt is not None or not image_prompts else []
  targets = [clip.encode_texts([text for text, _ in texts])] if texts else []
  targets += [clip.encode_pictures(image[None]) for image, _ in image_prompts]
  weights = [weight for _, weight in (*texts, *image_prompts)]
  return {"targets": np.concatenate(targets), "weights": np.asarray(weights, np.float32)}


def with_classes(classes: np.ndarray, asked: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The result of `clip_targets` with classes, unit vectors [C, D], added as alternatives with weight 0.

  "asked", bool [P + C], marks what a picture should be classified as: targets with a positive weight, and the class
  nearest to each. If no weight is positive, it marks every class except those nearest to the negative targets.
  """
  targets, weights = asked["targets"], asked["weights"]
  wanted = weights > 0
  nearest = np.argmax(targets @ classes.T, axis=1)
  named = np.isin(np.arange(len(classes)), nearest[wanted] if wanted.any() else nearest)
  return {
    "targets": np.concatenate([targets, classes]),
    "weights": np.concatenate([weights, np.zeros(len(classes), np.float32)]),
    "asked": np.concatenate([wanted, named if wanted.any() else ~named]),
  }
