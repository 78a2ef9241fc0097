"""Prompts: texts with weights, separated by |."""

import numpy as np


def split_prompt(prompt: str) -> list[tuple[str, float]]:
  """The texts and weights of a prompt.

  >>> split_prompt("a handwritten three|a four::-0.5")
  [('a handwritten three', 1.0), ('a four', -0.5)]

  Raises:
    ValueError: an empty text, or a weight that is not a finite number.
  """
  parts = []
  for part in prompt.split("|"):
    text, mark, weight = part.partition("::")
    if not text.strip():
      raise ValueError(f"the prompt {prompt!r} has an empty part; write what to draw, such as 'a three'.")
    try:
      value = float(weight) if mark else 1.0
    except ValueError:
      value = float("nan")
    if not np.isfinite(value):
      raise ValueError(f"the weight {weight!r} of the prompt {text!r} is not a number; write it as in ::0.5.")
    parts.append((text.strip(), value))
  return parts
