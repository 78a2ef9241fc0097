"""Single images as PNG files that say how they were drawn, in the text that AUTOMATIC1111's web UI and others read."""

import json
import pathlib
from typing import Any

import numpy as np

from diffjax.system import writing

KEY = "parameters"
"""The PNG text chunk that holds it."""


def parameters(prompt: str, negative_prompt: str | None = None, **settings: Any) -> str:
  """The text: prompt, negative prompt, and a line of those settings that are not None.

  >>> print(parameters("a lighthouse", "people", steps=25, cfg_scale=7.5, seed=3, size="768x512", strength=None))
  a lighthouse
  Negative prompt: people
  Steps: 25, CFG scale: 7.5, Seed: 3, Size: 768x512
  """
  named = [f"{_name(key)}: {_value(value)}" for key, value in settings.items() if value is not None]
  negative = [f"Negative prompt: {negative_prompt}"] if negative_prompt else []
  return "\n".join([prompt, *negative, ", ".join(named)])


def _name(key):
  words = key.replace("_", " ")
  return f"CFG{words[3:]}" if words.startswith("cfg") else words[:1].upper() + words[1:]


def _value(value):
  text = str(value)
  return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ',:"\n') else text  # as readers split


def save_png(image: np.ndarray, path: pathlib.Path, text: str) -> None:
  """Writes an image uint8 [H, W, C] with the text in its metadata."""
  from PIL import Image, PngImagePlugin

  info = PngImagePlugin.PngInfo()
  if text.isascii():
    info.add_text(KEY, text)
  else:
    info.add_itxt(KEY, text)
  with writing.replacing(path) as part:
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(part, format="png", pnginfo=info)
