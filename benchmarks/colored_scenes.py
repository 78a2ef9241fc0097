"""Judges a model that draws two coloured digits from text: is each of them, in its colour, on its side?

  python benchmarks/colored_scenes.py --workdir=runs/scenes_latent [--num=1000 --steps=10 --seed=0]

Both halves of an image are judged as `colored_digits.py` judges a digit. Two sets of `num` images are drawn: of pairs
of digit and colour seen in training, and of those never seen. Colours count as swapped where each side has the other's
and the digits are not swapped, sides where both are.
"""

import argparse
import json
import sys

import numpy as np
from colored_digits import Judge, separated

from diffjax.data import colored_digits, colored_scenes
from diffjax.runs import load_run


def asked(num: int, seed: int, unseen: bool) -> tuple[np.ndarray, np.ndarray]:
  """(digits and colours [num, 2 sides, 2], grounds [num]): random scenes, of pairs never seen or of the others."""
  random = np.random.RandomState(seed)
  digits = random.randint(len(colored_digits.DIGITS), size=(num, 2))
  shift = random.randint(1, len(colored_digits.COLOURS), size=(num, 2))
  colours = (colored_digits.unseen_colour(digits) + (0 if unseen else shift)) % len(colored_digits.COLOURS)
  return np.stack([digits, colours], axis=-1), random.randint(len(colored_digits.GROUNDS), size=num)


def read(judge: Judge, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(digits and colours [num, 2 sides, 2], grounds [num, 2 sides]) of images uint8 [num, H, 2 H, 3]."""
  halves = [separated(half) for half in np.split(images, 2, axis=2)]
  objects = np.stack([np.stack([judge.digits(ink), colour], axis=-1) for ink, colour, _ in halves], axis=1)
  return objects, np.stack([ground for _, _, ground in halves], axis=1)


def shares(objects: np.ndarray, grounds: np.ndarray, wanted: np.ndarray, ground: np.ndarray) -> dict[str, float]:
  """What share of the images is as asked for, and in what share of them something is swapped."""
  right, crossed = objects == wanted, (objects == wanted[:, ::-1]).all(axis=1)  # [num, sides, 2], [num, 2]
  differ = wanted[:, 0] != wanted[:, 1]
  found = {
    "both objects": right.all(axis=(1, 2)),
    "digits": right[:, :, 0].all(axis=1),
    "colours": right[:, :, 1].all(axis=1),
    "ground": (grounds == ground[:, None]).all(axis=1),
    "colours swapped": (crossed & differ)[:, 1] & ~(crossed & differ)[:, 0],
    "sides swapped": (crossed & differ).all(axis=1),
  }
  return {name: float(values.mean()) for name, values in found.items()}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", required=True)
  parser.add_argument("--num", type=int, default=1000)
  parser.add_argument("--steps", type=int, default=10)
  parser.add_argument("--seed", type=int, default=0)
  given = parser.parse_args()
  run, report = load_run(given.workdir), {}
  if run.image_shape != (32, 64, 3):
    raise ValueError(f"{given.workdir} draws images {run.image_shape}, no scenes; train configs/scenes_latent.py.")
  judge = Judge()
  for name, unseen in (("pairs seen", False), ("pairs never seen", True)):
    wanted, grounds = asked(given.num, given.seed, unseen)
    texts = [
      colored_scenes.caption(*map(tuple, pair), ground, i % len(colored_scenes.TEMPLATES))
      for i, (pair, ground) in enumerate(zip(wanted.tolist(), grounds))
    ]
    images = run.draw(given.num, prompt=texts, seed=given.seed, steps=given.steps)
    report[name] = shares(*read(judge, images), wanted, grounds)
  print(json.dumps(report, indent=2))


if __name__ == "__main__":
  try:
    main()
  except (ValueError, OSError) as error:
    sys.exit(f"error: {error}")
