"""Judges a model that draws coloured handwritten digits from text: are digit, colour and ground those of the prompt?

  python benchmarks/colored_digits.py --workdir=runs/colors_latent [--num=1000 --steps=10 --seed=0]

The digit is read by a support vector machine trained on real digits and copies of them shifted by a pixel, from the
amount of ink in every pixel, as far as the nearest of the colours and grounds explains it. Four sets of `num` images
are drawn: of all combinations, of those never seen in training, from templates never seen in training, and of all
combinations in half of the steps. Recall and nearest distances are of the ink's first principal components, as the
autoencoder's own errors hide it in pixels: the report has the same figures of held-out real digits that went through
the autoencoder.
"""

import argparse
import json
import sys

import numpy as np

from diffjax import from_config
from diffjax.codecs import Latents
from diffjax.data import colored_digits, evenly
from diffjax.evaluation import metrics
from diffjax.runs import load_run
from diffjax.runs.autoencoder import reconstructed


def separated(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(ink [N, H, W] in 0..1, colour [N], ground [N]) of images uint8 [N, H, W, 3]: the pair with the least residual."""
  pixels = images.astype(np.float32)
  best = np.full(len(images), np.inf)
  ink, colour, ground = np.zeros(images.shape[:3], np.float32), np.zeros(len(images), int), np.zeros(len(images), int)
  for c, front in enumerate(map(np.array, colored_digits.COLOURS.values())):
    for g, back in enumerate(map(np.array, colored_digits.GROUNDS.values())):
      direction = (front - back).astype(np.float32)
      amount = np.clip((pixels - back) @ direction / (direction @ direction), 0, 1)
      residual = np.square(pixels - back - amount[..., None] * direction).sum(axis=(1, 2, 3))
      better = residual < best
      best[better], ink[better], colour[better], ground[better] = residual[better], amount[better], c, g
  return ink, colour, ground


COMPONENTS = 50


class Judge:
  """Reads digits with a support vector machine trained on the real training digits, as they are and shifted."""

  def __init__(self):
    from sklearn.svm import SVC

    self.real, labels = colored_digits.digits("train")
    self.held_out, held_labels = colored_digits.digits("test")
    ink = flat(self.real / 255)
    shifted = [np.roll(self.real, shift, axis=(1, 2)) for shift in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))]
    self._svc = SVC(C=10, gamma=0.02).fit(flat(np.concatenate(shifted) / 255), np.tile(labels, len(shifted)))
    self._mean, self._axes = ink.mean(axis=0), np.linalg.svd(ink - ink.mean(axis=0), full_matrices=False)[2]
    self.own_rate = float((self.digits(self.held_out / 255) == held_labels).mean())

  def digits(self, ink: np.ndarray) -> np.ndarray:
    """The digits read in ink [N, H, W]."""
    return self._svc.predict(flat(ink))

  def shares(self, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The share of images whose digit, colour, ground, and all of them are those of the labels."""
    ink, colour, ground = separated(images)
    asked = np.array([colored_digits.parts(label) for label in labels])
    right = np.stack([self.digits(ink), colour, ground], axis=1) == asked
    return dict(zip(("digit", "colour", "ground"), right.mean(axis=0).tolist())) | {"all": right.all(axis=1).mean()}

  def variety(self, images: np.ndarray) -> dict[str, float]:
    """Recall of the training digits, as a share of the held-out ones', and the ratio of nearest distances."""
    sets = (separated(images)[0], self.real / 255, self.held_out / 255)
    drawn, real, held_out = ((flat(ink) - self._mean) @ self._axes[:COMPONENTS].T for ink in sets)
    recall, reached = (metrics.precision_recall(real, other)[1] for other in (drawn[: len(held_out)], held_out))
    return {"recall": recall / reached, "nearest_ratio": metrics.distance_ratio(drawn, real, held_out)}


def flat(ink: np.ndarray) -> np.ndarray:
  return ink.reshape(len(ink), -1)


def prompted(run, labels: np.ndarray, templates, **options) -> np.ndarray:
  """Images of these classes, each prompted by one of the templates in turn."""
  texts = [templates[i % len(templates)][label] for i, label in enumerate(labels)]
  return run.draw(len(labels), prompt=texts, **options)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", required=True)
  parser.add_argument("--num", type=int, default=1000)
  parser.add_argument("--steps", type=int, default=10)
  parser.add_argument("--seed", type=int, default=0)
  given = parser.parse_args()
  run, judge = load_run(given.workdir), Judge()
  classes = np.arange(colored_digits.NUM_CLASSES)
  unseen = np.array(
    [c for c in classes if colored_digits.unseen_colour(colored_digits.parts(c)[0]) == colored_digits.parts(c)[1]]
  )
  training, held_out = (
    from_config.latent.training_captions(run.config),
    from_config.latent.held_out_captions(run.config),
  )
  each = lambda labels: np.resize(np.random.RandomState(given.seed).permutation(labels), given.num)
  options = dict(seed=given.seed, steps=given.steps)
  sets = {
    "all pairs": (each(classes), training, options),
    "pairs never seen": (each(unseen), training, options),
    "templates never trained": (each(classes), held_out, options),
    "half of the steps": (each(classes), training, options | {"steps": given.steps // 2}),
  }
  real = evenly(colored_digits.open_colored_digits("test"), given.num)
  images, labels = (np.stack([example[name] for example in real]) for name in ("image", "label"))
  codec = run.pipeline.codec
  again = reconstructed(codec, images) if isinstance(codec, Latents) else images  # pixels come back as they are
  report = {"judge on real digits": judge.own_rate, "reconstructed": judge.shares(again, labels) | judge.variety(again)}
  for name, (labels, templates, asked) in sets.items():
    images = prompted(run, labels, templates, **asked)
    report[name] = judge.shares(images, labels) | (judge.variety(images) if name == "all pairs" else {})
  print(json.dumps(report, indent=2))


if __name__ == "__main__":
  try:
    main()
  except (ValueError, OSError) as error:
    sys.exit(f"error: {error}")
