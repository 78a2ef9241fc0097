"""Figures over features against closed forms, sets small enough to count by hand, and a plain second implementation."""

import numpy as np
import pytest
import scipy.linalg

from diffjax import evaluation
from diffjax.evaluation import metrics

LINE = np.array([[0.0], [1.0], [2.0], [10.0]])


def with_moments(mean, root, num=64, seed=0):
  """Rows whose sample mean and unbiased covariance are exactly `mean` and root @ root.T."""
  rows = np.random.default_rng(seed).standard_normal((num, len(mean)))
  rows -= rows.mean(0)
  whitened = np.linalg.qr(rows)[0] * np.sqrt(num - 1)
  return whitened @ root.T + mean


def test_frechet_distance_of_gaussians_has_its_closed_form():
  real, drawn = with_moments([0, 0], np.diag([1.0, 2.0])), with_moments([3, 4], np.diag([5.0, 2.0]), seed=1)
  assert evaluation.frechet_distance(real, drawn) == pytest.approx(3**2 + 4**2 + (5 - 1) ** 2, rel=1e-12)


def test_frechet_distance_agrees_with_the_root_of_the_product():
  rng = np.random.default_rng(0)
  real = rng.standard_normal((80, 6)) @ rng.standard_normal((6, 6))
  drawn = rng.standard_normal((50, 6)) @ rng.standard_normal((6, 6)) + rng.standard_normal(6)
  a, b = np.cov(real.T), np.cov(drawn.T)
  expected = ((real.mean(0) - drawn.mean(0)) ** 2).sum() + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
  assert evaluation.frechet_distance(real, drawn) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_holds_for_singular_covariances_and_fewer_rows_than_columns():
  real, drawn = np.zeros((4, 9)), np.zeros((3, 9))
  real[:, 0], drawn[:, 1] = [-1, 1, -1, 1], [-1, 0, 1]  # variances 4/3 and 1 along axes that never meet
  assert evaluation.frechet_distance(real, drawn) == pytest.approx(4 / 3 + 1, rel=1e-12)
  assert evaluation.frechet_distance(real, real) == pytest.approx(0, abs=1e-12)
  assert evaluation.frechet_distance(real, real * 3) == pytest.approx((3 - 1) ** 2 * 4 / 3, rel=1e-12)


def test_frechet_distance_goes_with_the_square_of_the_scale():
  real, drawn = np.random.default_rng(0).standard_normal((2, 40, 5))
  expected = 4 * evaluation.frechet_distance(real, drawn)
  assert evaluation.frechet_distance(2 * real, 2 * drawn) == pytest.approx(expected, rel=1e-10)


def test_precision_recall_counted_by_hand():
  # k = 1: the real balls are [-1, 1], [0, 2], [1, 3], [2, 18]; the drawn ones reach 4.9, 1, 1 and 14.6 to each side.
  drawn = np.array([[-2.0], [2.9], [3.9], [18.5]])
  assert evaluation.precision_recall(LINE, drawn, k=1) == (0.5, 1.0)
  assert evaluation.precision_recall(LINE, drawn + 100, k=1) == (0.0, 0.0)
  assert evaluation.precision_recall(drawn, LINE, k=1) == (1.0, 0.5)


def test_class_recall_is_the_mean_over_classes():
  drawn = np.array([[-2.0], [2.9], [3.9], [18.5]])
  real, labels = np.concatenate([LINE, LINE + 1000]), np.repeat([0, 1], 4)
  both = np.concatenate([drawn, LINE + 2000])  # the second class is missed altogether
  assert metrics.class_recall(real, labels, both, labels, k=1) == 0.5
  assert metrics.class_recall(real, labels, both[[0, 1, 2, 3]], labels[:4], k=1) == 1.0
  assert np.isnan(metrics.class_recall(real, labels, both, labels, k=4))


def test_density_coverage_counted_by_hand():
  # k = 1: the real balls are [-1, 1], [0, 2], [1, 3], [2, 18]; 1 lies in three of them, 5 and 6 in one, 30 in none.
  drawn = np.array([[1.0], [5.0], [6.0], [30.0], [30.0]])
  assert evaluation.density_coverage(LINE, drawn, k=1) == (pytest.approx(5 / 5), 1.0)
  assert evaluation.density_coverage(LINE, drawn[3:], k=1) == (0.0, 0.0)
  assert evaluation.density_coverage(LINE, drawn[1:3], k=1) == (1.0, 0.25)


def test_identical_sets_are_perfect_whatever_the_scale():
  for scale in (1e-6, 1.0, 1e6):
    features = scale * np.random.default_rng(0).standard_normal((60, 7))
    assert evaluation.precision_recall(features, features) == (1.0, 1.0)
    density, coverage = evaluation.density_coverage(features, features)
    assert coverage == 1.0
    assert density == pytest.approx(6 / 5)  # five neighbours and itself, on average
    assert evaluation.frechet_distance(features, features) == pytest.approx(0, abs=1e-9 * scale**2)


def test_blocks_do_not_show(monkeypatch):
  real, drawn = np.random.default_rng(0).standard_normal((2, 33, 4))
  found = []
  for block in (2**20, 100):
    monkeypatch.setattr(metrics, "BLOCK", block)
    near, index = evaluation.nearest_distances(drawn, real)
    found.append((*evaluation.precision_recall(real, drawn), *evaluation.density_coverage(real, drawn), near, index))
  for whole, parts in zip(*found):
    np.testing.assert_allclose(whole, parts, rtol=1e-12)
  every = np.linalg.norm(drawn[:, None] - real, axis=-1)
  np.testing.assert_allclose(near, every.min(1), rtol=1e-9)
  np.testing.assert_array_equal(index, every.argmin(1))


def test_copies_have_distance_zero_even_far_from_the_origin():
  train = 1e3 + np.random.default_rng(0).standard_normal((20, 64))
  distances, index = evaluation.nearest_distances(train[5:9], train)
  np.testing.assert_array_equal(distances, 0)
  np.testing.assert_array_equal(index, [5, 6, 7, 8])


def test_distance_ratio_tells_copies_from_new():
  train = np.arange(10.0)[:, None]
  held_out = train + 0.4
  assert evaluation.distance_ratio(train[:5], train, held_out) == 0
  assert evaluation.distance_ratio(train[:5] + 0.2, train, held_out) == pytest.approx(0.5)
  assert evaluation.distance_ratio(held_out, train, held_out) == 1
  assert np.isnan(evaluation.distance_ratio(held_out, train, train))


def test_label_accuracy_counts_what_the_judge_reads():
  rng = np.random.default_rng(0)
  labels = np.arange(60) % 3
  clusters = 20.0 * np.eye(3)[labels] + rng.standard_normal((60, 3))
  assert evaluation.label_accuracy(clusters, labels, clusters, labels) == 1
  wrong = np.where(np.arange(60) < 15, (labels + 1) % 3, labels)
  assert evaluation.label_accuracy(clusters, wrong, clusters, labels) == 0.75
  assert evaluation.label_accuracy(clusters, labels, clusters, labels, limit=9) == 1
  with pytest.raises(ValueError, match="pass one label per image"):
    evaluation.label_accuracy(clusters, labels[:5], clusters, labels)
  with pytest.raises(ValueError, match="single class"):
    evaluation.label_accuracy(clusters, labels, clusters, np.zeros(60))


@pytest.mark.parametrize(
  ("real", "drawn", "says"),
  [
    (np.zeros((9, 2)), np.zeros((9, 3)), "2 and 3 columns"),
    (np.zeros((9, 2)), np.zeros((3, 2)), r"N >= 4"),
    (np.zeros((9, 2)), np.full((9, 2), np.nan), "NaN"),
    (np.zeros(9), np.zeros(9), r"give \[N, D\]"),
  ],
)
def test_bad_features_are_refused(real, drawn, says):
  with pytest.raises(ValueError, match=says):
    evaluation.precision_recall(real, drawn)
