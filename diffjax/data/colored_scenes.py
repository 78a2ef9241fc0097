"""Two coloured digits side by side, whose captions say which one is where."""

import numpy as np

from diffjax.data import colored_digits as single
from diffjax.data.source import Source

TEMPLATES = ("{left} left of {right} on {ground}", "{right} right of {left} on {ground}")
OBJECT = "a {colour} {digit}"
SIZES = {"train": 24_000, "test": 2_000}
"""Number of scenes of each split, drawn at random from all there are."""


def caption(left: tuple[int, int], right: tuple[int, int], ground: int, template: int = 0) -> str:
  """The caption of a scene; each object is (digit, colour)."""
  left_text, right_text = (
    OBJECT.format(colour=list(single.COLOURS)[colour], digit=single.DIGITS[digit]) for digit, colour in (left, right)
  )
  return TEMPLATES[template].format(left=left_text, right=right_text, ground=list(single.GROUNDS)[ground])


def open_colored_scenes(split: str) -> Source:
  """One split: [32, 64, 3], no digit in its `unseen_colour`, and a caption of one of the templates for each scene.

  Raises:
    ImportError: as `colored_digits.digits`.
  """
  images, classes = single.digits(split)
  # RandomState's stream is the same in all versions of NumPy, so that a resumed run sees the same scenes
  random, num = np.random.RandomState(0), SIZES[split]
  digits = random.randint(len(images), size=(num, 2))
  unseen = np.array([single.unseen_colour(digit) for digit in range(10)])[classes[digits]]
  colours = (unseen + random.randint(1, len(single.COLOURS), size=(num, 2))) % len(single.COLOURS)
  grounds, templates = (random.randint(len(names), size=num).tolist() for names in (single.GROUNDS, TEMPLATES))

  def decode(i):
    both = [single.paint(images[d], c, grounds[i]) for d, c in zip(digits[i], colours[i])]
    return {"image": np.concatenate(both, axis=1)}

  def text(i):
    left, right = zip(classes[digits[i]].tolist(), colours[i].tolist())
    return caption(left, right, grounds[i], templates[i])

  side = single.SIDE + 2 * single.PADDING
  return Source("colored_scenes", (side, 2 * side, 3), 0, range(num), decode, text)
