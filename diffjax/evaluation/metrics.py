"""Metrics that compare drawn pictures with real ones: pure functions of features, in float64 NumPy.

Features are arrays [N, D], one row per picture; any further axes are flattened. Neighbour searches compute distances in
blocks, so the full matrix of 50 000 against 50 000 is never in memory.
All figures depend on the number of pictures (fewer score worse): compare only at equal numbers.
"""

from collections.abc import Iterator

import numpy as np

BLOCK = 2**22
"""Distances in memory at once: 32 MiB in float64."""


def frechet_distance(real: np.ndarray, drawn: np.ndarray) -> float:
  """Squared Frechet distance of Gaussians fitted to both sets (Heusel et al. 2017, eq. 6); FID with Inception features.

  real [N, D], drawn [M, D] -> a figure >= 0 in squared units of the features. With covariances A'A and B'B, the trace
  of the root of their product is the nuclear norm of AB', so no matrix root is taken: singular covariances and N < D
  are exact. Raises ValueError for fewer than two rows, unequal D, or features that are not finite.
  """
  real, drawn = _pair(real, drawn, at_least=2)
  mean_real, root_real = _mean_and_root(real)
  mean_drawn, root_drawn = _mean_and_root(drawn)
  cross = np.linalg.svd(root_real @ root_drawn.T, compute_uv=False).sum()
  distance = ((mean_real - mean_drawn) ** 2).sum() + (root_real**2).sum() + (root_drawn**2).sum() - 2 * cross
  return max(float(distance), 0.0)


def precision_recall(real: np.ndarray, drawn: np.ndarray, k: int = 3) -> tuple[float, float]:
  """Fractions of drawn within the real manifold, and of real within the drawn one (Kynkaanniemi et al. 2019, eq. 2).

  real [N, D], drawn [M, D] -> (precision, recall), both in [0, 1]. A manifold is the union of closed balls around its
  pictures, each reaching its k-th neighbour. Raises ValueError unless both sets have more than k pictures.
  """
  real, drawn = _pair(real, drawn, at_least=k + 1)
  radius_real, radius_drawn = _radii(real, k), _radii(drawn, k)
  precise, recalled = [], np.zeros(len(real), bool)
  for rows, squared in _blocks(drawn, real):
    precise.append((squared <= radius_real).any(1))
    recalled |= (squared <= radius_drawn[rows, None]).any(0)
  return float(np.concatenate(precise).mean()), float(recalled.mean())


def class_recall(real, real_labels, drawn, drawn_labels, k: int = 3) -> float:
  """Mean over classes of the recall within each: low if all pictures of a class look the same.

  real [N, D] with real_labels int [N], drawn [M, D] with drawn_labels int [M] -> a figure in [0, 1]; nan unless every
  drawn class has more than k pictures in both sets. Compare it with that of as many real pictures per class.
  """
  recalls = []
  for label in np.unique(drawn_labels):
    pair = real[real_labels == label], drawn[drawn_labels == label]
    if min(map(len, pair)) <= k:
      return float("nan")
    recalls.append(precision_recall(*pair, k)[1])
  return float(np.mean(recalls))


def density_coverage(real: np.ndarray, drawn: np.ndarray, k: int = 5) -> tuple[float, float]:
  """Real balls around each drawn picture over k; fraction of real balls that hold one (Naeem et al. 2020, section 3).

  real [N, D], drawn [M, D] -> (density >= 0, about 1 for equal distributions; coverage in [0, 1]). Unlike precision
  and recall, neither rewards outliers. Raises ValueError unless both sets have more than k pictures.
  """
  real, drawn = _pair(real, drawn, at_least=k + 1)
  radius = _radii(real, k)
  balls, covered = 0, np.zeros(len(real), bool)
  for _, squared in _blocks(drawn, real):
    within = squared <= radius
    balls += int(within.sum())
    covered |= within.any(0)
  return balls / (k * len(drawn)), float(covered.mean())


def nearest_distances(drawn: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Euclidean distance from each drawn picture to its nearest training picture, and that picture's index.

  drawn [M, D], train [N, D] -> (distances float64 [M], indices into train int64 [M]).
  """
  drawn, train = _pair(drawn, train, at_least=1)
  found = [(squared.min(1), squared.argmin(1)) for _, squared in _blocks(drawn, train)]
  squared, index = (np.concatenate(part) for part in zip(*found))
  return np.sqrt(squared), index


def distance_ratio(drawn: np.ndarray, train: np.ndarray, held_out: np.ndarray) -> float:
  """Median nearest distance of drawn to train over that of held-out to train: near 0 means copies, 1 is as new.

  All are features [*, D]. nan when the held-out pictures are themselves copies of training ones.
  """
  held_out_median = np.median(nearest_distances(held_out, train)[0])
  if held_out_median == 0:
    return float("nan")
  return float(np.median(nearest_distances(drawn, train)[0]) / held_out_median)


def label_accuracy(drawn, labels, train, train_labels, limit: int = 10_000) -> float:
  """Fraction of drawn pictures whose label a support vector classifier trained on real pictures recognises.

  drawn [M, D] with labels int [M], train [N, D] with train_labels int [N] -> a fraction in [0, 1]. The classifier is
  independent of the model; compare with its accuracy on held-out real pictures. It uses at most `limit` evenly spaced
  training pictures, as its cost is quadratic in them. Raises ValueError if pictures and labels differ in number.
  """
  from sklearn.svm import SVC

  drawn, train = _pair(drawn, train, at_least=1)
  labels, train_labels = np.asarray(labels), np.asarray(train_labels)
  for name, pictures, its_labels in (("drawn", drawn, labels), ("train", train, train_labels)):
    if its_labels.shape != (len(pictures),):
      raise ValueError(
        f"{name} has {len(pictures)} images but labels of shape {its_labels.shape}; pass one label per image."
      )
  if len(np.unique(train_labels)) < 2:
    raise ValueError("the training labels have a single class; give at least two.")
  picked = np.unique(np.linspace(0, len(train) - 1, min(limit, len(train))).round().astype(int))
  judge = SVC(C=10.0).fit(train[picked], train_labels[picked])
  return float((judge.predict(drawn) == labels).mean())


def _pair(first, second, at_least: int) -> tuple[np.ndarray, np.ndarray]:
  pair = []
  for features in (first, second):
    features = np.asarray(features, np.float64)
    if features.ndim < 2 or len(features) < at_least:
      raise ValueError(f"features have shape {features.shape}; give [N, D] with N >= {at_least}.")
    if not np.isfinite(features).all():
      raise ValueError("features contain NaN or infinity; drop those images or fix the feature function.")
    pair.append(features.reshape(len(features), -1))
  if pair[0].shape[1] != pair[1].shape[1]:
    raise ValueError(f"features have {pair[0].shape[1]} and {pair[1].shape[1]} columns; compute both in the same way.")
  return pair[0], pair[1]


def _mean_and_root(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean [D] and a root R [min(N, D), D] of the unbiased covariance R'R."""
  mean = features.mean(0)
  root = np.linalg.qr((features - mean) / np.sqrt(len(features) - 1), mode="r")
  return mean, root  # pyright: ignore[reportReturnType]  NumPy's stub returns Q and R here, too


def _radii(features: np.ndarray, k: int) -> np.ndarray:
  """Squared distance of each row to its k-th neighbour in the same set; column 0 is the row itself."""
  radii = [np.partition(squared, k, axis=1)[:, k] for _, squared in _blocks(features, features)]
  return np.concatenate(radii) * (1 + 1e-9)  # keeps the k-th neighbour inside despite rounding


def _blocks(queries: np.ndarray, keys: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
  """Yields (rows, squared distances [rows, keys]) for all queries, block by block."""
  norms = (keys**2).sum(1)
  size = max(1, BLOCK // len(keys))
  for start in range(0, len(queries), size):
    rows = slice(start, start + size)
    norm = (queries[rows] ** 2).sum(1)[:, None] + norms
    squared = norm - 2 * queries[rows] @ keys.T
    squared[squared < 1e-12 * norm] = (
      0.0  # the expansion cancels for equal rows: below the rounding error they count as equal
    )
    yield rows, squared
