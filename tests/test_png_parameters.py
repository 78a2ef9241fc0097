"""Single PNGs say how they were drawn, in lines that other programs split at commas and colons."""

import re

import numpy as np
import pytest
from PIL import Image

from diffjax.plots.parameters import parameters, save_png


def parsed(text):
  """(prompt, negative prompt, settings), as programs read it: settings are the last line."""
  *lines, last = text.split("\n")
  settings = dict(re.findall(r'\s*([\w ]+): ("[^"]*"|[^,]*)(?:,|$)', last))
  rest = "\n".join(lines).split("\nNegative prompt: ")
  return rest[0], rest[1] if len(rest) > 1 else None, {key: value.strip('"') for key, value in settings.items()}


def test_prompts_and_settings_come_apart_again():
  text = parameters(
    "a red three,\non (white:1.2)", "blue: no, none", steps=10, cfg_scale=2.0, model="a, b: c", seed=7, clip_skip=None
  )
  prompt, negative, settings = parsed(text)
  assert (prompt, negative) == ("a red three,\non (white:1.2)", "blue: no, none")
  assert settings == {"Steps": "10", "CFG scale": "2.0", "Model": "a, b: c", "Seed": "7"}
  assert parsed(parameters("a three", steps=1)) == ("a three", None, {"Steps": "1"})


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("prompt", ["a red three", "eine rote Drei, größer als 零"])
def test_the_file_holds_image_and_text(tmp_path, channels, prompt):
  image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
  text = parameters(prompt, steps=10)
  save_png(image, tmp_path / "0000.png", text)
  opened = Image.open(tmp_path / "0000.png")
  assert opened.text["parameters"] == text and opened.info["parameters"] == text
  np.testing.assert_array_equal(np.asarray(opened).reshape(image.shape), image)
