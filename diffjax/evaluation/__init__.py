"""Quality of drawn pictures: metrics over features, and a report on a run (`python -m diffjax.evaluation`)."""

from diffjax.evaluation.metrics import (
  density_coverage,
  distance_ratio,
  frechet_distance,
  label_accuracy,
  nearest_distances,
  precision_recall,
)
from diffjax.evaluation.report import evaluate, pixels, table

__all__ = [
  "density_coverage",
  "distance_ratio",
  "evaluate",
  "frechet_distance",
  "label_accuracy",
  "nearest_distances",
  "pixels",
  "precision_recall",
  "table",
]
