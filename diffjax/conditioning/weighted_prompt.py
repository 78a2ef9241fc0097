"""Texts with weights, separated by |: prompts, and files with strengths."""

import numpy as np


def split_prompt(prompt: str) -> list[tuple[str, float]]:
  """The texts and weights of a prompt.

  >>> split_prompt("a handwritten three|a four::-0.5")
  [('a handwritten three', 1.0), ('a four', -0.5)]

  Raises:
    ValueError: an empty text, or a weight that is not a finite number.
  """
  return split_weighted(prompt, "prompt", "write what to draw, such as 'a three'")


def split_weighted(text: str, what: str, remedy: str) -> list[tuple[str, float]]:
  """Parts and weights of a text in this syntax; `what` it is, and the `remedy` for an empty part, are for errors.

  Raises:
    ValueError: as `split_prompt`.
  """
  parts = []
  for part in text.split("|"):
    own, mark, weight = part.partition("::")
    if not own.strip():
      raise ValueError(f"the {what} {text!r} has an empty part; {remedy}.")
    try:
      value = float(weight) if mark else 1.0
    except ValueError:
      value = float("nan")
    if not np.isfinite(value):
      raise ValueError(f"the weight {weight!r} of the {what} {own!r} is not a number; write it as in ::0.5.")
    parts.append((own.strip(), value))
  return parts
