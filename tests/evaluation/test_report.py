"""The report: its floor on real digits is the known one, and copies, noise and wrong labels show in the right row."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from diffjax import evaluation


@pytest.fixture(scope="session")
def digits():
  """The embedded digits as uint8, 1437 to train and 360 held out, stratified."""
  images, labels = load_digits(return_X_y=True)
  images = np.round(images * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
  parts = train_test_split(images, labels, test_size=360, random_state=0, stratify=labels)
  return [{"image": parts[i], "label": parts[i + 2].astype(np.int32)} for i in (0, 1)]


def some(pictures, rows):
  return {name: array[rows] for name, array in pictures.items()}


def test_held_out_digits_give_the_known_floor(digits):
  train, held_out = digits
  report = evaluation.evaluate(held_out, train, held_out)
  floor = report["held_out"]
  assert report["drawn"] == floor
  assert (round(floor["frechet"], 2), round(floor["precision"], 2), round(floor["recall"], 2)) == (0.41, 0.88, 0.93)
  assert floor["nearest_ratio"] == 1
  assert floor["label_accuracy"] > 0.99


def test_copies_noise_and_wrong_labels_show(digits):
  train, held_out = some(digits[0], slice(400)), some(digits[1], slice(100))
  copies = some(train, slice(100))
  copied = evaluation.evaluate(copies, train, held_out)["drawn"]
  assert (copied["nearest_ratio"], copied["precision"]) == (0, 1)
  noise = {"image": np.random.default_rng(0).integers(0, 256, (100, 8, 8, 1), np.uint8), "label": np.arange(100) % 10}
  noisy = evaluation.evaluate(noise, train, held_out)["drawn"]
  assert (noisy["precision"], noisy["density"], noisy["coverage"]) == (0, 0, 0)
  assert noisy["frechet"] > 10
  assert noisy["nearest_ratio"] > 2
  mislabelled = copies | {"label": (copies["label"] + 1) % 10}
  assert evaluation.evaluate(mislabelled, train, held_out)["drawn"]["label_accuracy"] < 0.05


def test_any_feature_function_serves(digits):
  train, held_out = some(digits[0], slice(300)), some(digits[1], slice(60))
  bright = {"image": np.full((60, 8, 8, 1), 255, np.uint8)}
  report = evaluation.evaluate(bright, train, held_out, features=lambda images: images.mean((1, 2)) / 255)
  means, spread = train["image"].mean((1, 2, 3)) / 255, (train["image"].mean((1, 2, 3)) / 255).var(ddof=1)
  assert report["drawn"]["frechet"] == pytest.approx((1 - means.mean()) ** 2 + spread)
  assert "label_accuracy" not in report["drawn"]


def test_few_held_out_pictures_leave_their_figures_open(digits):
  train = some(digits[0], slice(50))
  report = evaluation.evaluate(train, train, some(digits[1], slice(3)))
  assert report["held_out"]["precision"] is None
  assert report["held_out"]["nearest_ratio"] == 1
  text = evaluation.table(report)
  assert [line.split()[1:3] for line in text.splitlines() if line.startswith("precision")] == [["1.000", "-"]]
  copied = evaluation.evaluate(train, train, some(train, slice(9)))
  assert copied["drawn"]["nearest_ratio"] is None


def test_pixels_go_from_minus_one_to_one():
  images = np.array([0, 255, 51], np.uint8).reshape(3, 1, 1, 1)
  np.testing.assert_allclose(evaluation.pixels(images), [[-1], [1], [-0.6]])


def test_bad_sets_are_refused(digits):
  train, held_out = digits
  with pytest.raises(ValueError, match=r"there are 5 drawn images, but at least 6 are needed; draw more\."):
    evaluation.evaluate(some(train, slice(5)), train, held_out)
  with pytest.raises(ValueError, match=r"there are 0 held-out images, but at least 1 are needed; add more\."):
    evaluation.evaluate(train, train, some(held_out, slice(0)))
  with pytest.raises(ValueError, match=r"drawn images are \[4, 4, 1\] but training ones \[8, 8, 1\]"):
    evaluation.evaluate({"image": train["image"][:, :4, :4]}, train, held_out)
  with pytest.raises(ValueError, match="256x256x3 is too large"):
    evaluation.pixels(np.zeros((1, 256, 256, 3), np.uint8))
  with pytest.raises(ValueError, match="give uint8"):
    evaluation.pixels(train["image"] / 255)


def test_of_one_class_no_label_can_be_read(digits):
  one = [some(pictures, pictures["label"] == 3) for pictures in digits]
  report = evaluation.evaluate(one[1], *one)
  assert report["drawn"]["label_accuracy"] is None and report["drawn"]["precision"] > 0.5
  assert "label" in evaluation.table(report)
