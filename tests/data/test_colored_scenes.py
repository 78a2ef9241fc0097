"""Scenes of two digits: captions say what is where, and unseen colours stay unseen."""

import numpy as np
import pytest

from diffjax.data import colored_digits, colored_scenes, load


@pytest.fixture(scope="module")
def source():
  return load("colored_scenes", "train", image_size=(32, 64), channels=3)


def test_captions_say_what_is_where(source):
  assert len(source) == 24_000 and source[0]["image"].shape == source.shape == (32, 64, 3)
  templates = set()
  for i in range(0, len(source), 997):
    text, image = source.text(source.records[i]), source[i]["image"]
    words = text.replace("a ", "").split()
    first, second = words[:2], words[4:6]
    assert words[3] == "of" and words[-2] == "on"
    left, right = (first, second) if words[2] == "left" else (second, first)
    templates.add(words[2])
    back = np.array(colored_digits.GROUNDS[words[-1]], float)
    for half, (colour, digit) in zip(np.split(image, 2, axis=1), (left, right)):
      direction = np.array(colored_digits.COLOURS[colour]) - back
      ink = (half - back) @ direction / (direction @ direction)
      np.testing.assert_allclose(half, back + ink[..., None] * direction, atol=1)  # no other colour
      assert 0.9 < ink.max() < 1.01
      assert colored_digits.unseen_colour(colored_digits.DIGITS.index(digit)) != list(colored_digits.COLOURS).index(
        colour
      )
  assert templates == {"left", "right"}


def test_the_digit_is_the_captions(source):
  images, classes = colored_digits.digits("train")
  for i in (5, 77, 4321):
    text, image = source.text(i), source[i]["image"]
    words = text.replace("a ", "").split()
    names = [words[1], words[5]] if words[2] == "left" else [words[5], words[1]]
    for half, name in zip(np.split(image, 2, axis=1), names):
      painted = [
        colored_digits.paint(grey, c, g)
        for grey in images[classes == colored_digits.DIGITS.index(name)]
        for c, g in [_colours(half)]
      ]
      assert any(np.array_equal(half, p) for p in painted)


def _colours(half):
  """The colour and ground whose mixtures a half consists of."""
  grounds, colours = (list(table.values()) for table in (colored_digits.GROUNDS, colored_digits.COLOURS))
  ground = int(np.abs(np.array(grounds) - half[0, 0].astype(int)).sum(axis=1).argmin())
  strongest = half.reshape(-1, 3)[np.abs(half.reshape(-1, 3).astype(int) - half[0, 0]).sum(axis=1).argmax()]
  return int(np.abs(np.array(colours) - strongest.astype(int)).sum(axis=1).argmin()), ground


def test_splits_show_other_digits_and_repeat_exactly(source):
  again = colored_scenes.open_colored_scenes("train")
  np.testing.assert_array_equal(again[123]["image"], source[123]["image"])
  assert again.text(123) == source.text(123)
  held_out = colored_scenes.open_colored_scenes("test")
  assert len(held_out) == 2000 and held_out[0]["image"].shape == (32, 64, 3)


def test_another_size_is_refused():
  with pytest.raises(
    ValueError, match=r"'colored_scenes' has images \[32, 64, 3\]; set data.image_size, data.image_wid"
  ):
    load("colored_scenes", "train", image_size=32)
