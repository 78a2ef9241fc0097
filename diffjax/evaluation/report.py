"""A report on drawn pictures, with the same figures for held-out real ones."""

from collections.abc import Callable, Mapping

import numpy as np

from diffjax.evaluation import metrics

NEIGHBOURS = 5
"""k of density and coverage; precision and recall use 3, as published."""
MAX_PIXEL_FEATURES = 64 * 64 * 3
"""Most values of a picture that is evaluated on its pixels."""

Pictures = Mapping[str, np.ndarray]
"""{"image": uint8 [N, H, W, C], "label": int [N] if labelled}."""

ROWS = (
  ("count", "images", "{:.0f}", ""),
  ("frechet", "Frechet distance", "{:.3f}", "lower is closer to the training data"),
  ("precision", "precision", "{:.3f}", "drawn ones that look real"),
  ("recall", "recall", "{:.3f}", "training ones within reach of the drawn"),
  ("class_recall", "recall within classes", "{:.3f}", "the same, class by class; lower for fewer images"),
  ("density", "density", "{:.3f}", "1: as dense as real"),
  ("coverage", "coverage", "{:.3f}", "training ones with a drawn one nearby"),
  ("nearest_ratio", "nearest distance ratio", "{:.3f}", "1: as new as held-out, 0: copied"),
  ("label_accuracy", "label accuracy", "{:.3f}", "read by a classifier trained on real ones"),
)


def pixels(images: np.ndarray) -> np.ndarray:
  """The pictures' own values as features: uint8 [N, H, W, C] -> float64 [N, H * W * C] in [-1, 1].

  Frechet distances are in squared units of this scale, which is that of network inputs.
  Raises ValueError for another dtype, or pictures of more than 64 * 64 * 3 values.
  """
  images = np.asarray(images)
  if images.ndim != 4 or images.dtype != np.uint8:
    raise ValueError(f"images are {images.dtype} {list(images.shape)}; give uint8 [N, H, W, C].")
  if np.prod(images.shape[1:]) > MAX_PIXEL_FEATURES:
    size = "x".join(map(str, images.shape[1:]))
    raise ValueError(
      f"{size} is too large to evaluate on pixels; call diffjax.evaluation.evaluate with your own features."
    )
  return images.reshape(len(images), -1) / 127.5 - 1


def evaluate(
  drawn: Pictures, train: Pictures, held_out: Pictures, features: Callable[[np.ndarray], np.ndarray] = pixels
) -> dict[str, dict[str, float | None]]:
  """Frechet distance, precision, recall, density, coverage, novelty: of drawn and of held-out pictures against train.

  Each set is {"image": uint8 [N, H, W, C]}, with "label" int [N] if labelled: for drawn, the requested labels. Labels
  add label accuracy and recall within classes. `features` maps pictures to [N, D]. Returns {"train": {"count": N},
  "drawn": figures, "held_out": figures}; a figure is None if undefined, as with fewer than 6 held-out pictures.

  The held-out figures are what real pictures reach, the reference to compare with. They usually come from fewer
  pictures, which in itself raises the Frechet distance. Bundled digits, 360 of 1797 held out by scikit-learn's
  `train_test_split` (stratified, random_state 0): Frechet distance 0.41, precision 0.88, recall 0.93.
  Raises ValueError for fewer than 6 drawn or training pictures, or sizes that differ.
  """
  judged = {"drawn": drawn, "held_out": held_out}
  size = np.shape(train["image"])[1:]
  for name, pictures, least in (
    ("train", train, NEIGHBOURS + 1),
    ("drawn", drawn, NEIGHBOURS + 1),
    ("held-out", held_out, 1),
  ):
    count, *own_size = np.shape(pictures["image"])
    if count < least:
      remedy = "draw" if name == "drawn" else "add"
      raise ValueError(f"there are {count} {name} images, but at least {least} are needed; {remedy} more.")
    if tuple(own_size) != size:
      raise ValueError(f"{name} images are {own_size} but training ones {list(size)}; use one size.")
  reference = features(train["image"])
  computed = {name: features(pictures["image"]) for name, pictures in judged.items()}
  report: dict[str, dict[str, float | None]] = {"train": {"count": len(reference)}}
  for name, own in computed.items():
    report[name] = {"count": len(own)} | _likeness(reference, own)
    report[name]["nearest_ratio"] = _finite(metrics.distance_ratio(own, reference, computed["held_out"]))
    if all("label" in pictures for pictures in (drawn, train, judged[name])):
      labels = np.asarray(judged[name]["label"])
      several = len(np.unique(train["label"])) > 1  # otherwise there is nothing to classify
      accuracy = metrics.label_accuracy(own, labels, reference, train["label"]) if several else None
      report[name]["label_accuracy"] = accuracy
      report[name]["class_recall"] = _finite(metrics.class_recall(reference, train["label"], own, labels))
  return report


def table(report: dict[str, dict[str, float | None]]) -> str:
  """The report of `evaluate` as a text table, with columns for drawn and held-out real pictures."""
  lines = [f"{'':<24}{'drawn':>10}{'held-out real':>16}"]
  for key, name, form, meaning in ROWS:
    if key in report["drawn"]:
      cells = [report[which].get(key) for which in ("drawn", "held_out")]
      drawn, held_out = ("-" if cell is None else form.format(cell) for cell in cells)
      lines.append(f"{name:<24}{drawn:>10}{held_out:>16}   {meaning}".rstrip())
  return "\n".join(lines)


def _likeness(real: np.ndarray, drawn: np.ndarray) -> dict[str, float | None]:
  names = ("frechet", "precision", "recall", "density", "coverage")
  if len(drawn) <= NEIGHBOURS:
    return dict.fromkeys(names)
  figures = (metrics.frechet_distance(real, drawn), *metrics.precision_recall(real, drawn))
  return dict(zip(names, (*figures, *metrics.density_coverage(real, drawn, NEIGHBOURS))))


def _finite(figure: float) -> float | None:
  return figure if np.isfinite(figure) else None
