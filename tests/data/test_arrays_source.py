"""Arrays in memory and in files as data sources."""

import numpy as np
import pytest

from diffjax import data
from diffjax.data.arrays import from_arrays

IMAGES = np.arange(40 * 6 * 6, dtype=np.int64).reshape(40, 6, 6, 1).astype(np.uint8)
LABELS = np.arange(40) % 3


def contents(source):
  return [example["image"].tobytes() for example in source]


def test_arrays_in_memory_are_a_source():
  source = data.from_arrays(IMAGES[..., 0], LABELS)
  assert (len(source), source.shape, source.num_classes) == (40, (6, 6, 1), 3)
  assert source[4]["label"] == 1 and source[4]["label"].dtype == np.int32
  np.testing.assert_array_equal(data.in_memory(source)["image"], IMAGES)
  assert "label" not in data.from_arrays(IMAGES)[0]


@pytest.mark.parametrize(
  ("images", "labels", "says"),
  [
    (IMAGES / 255, None, r"images are float64\[40, 6, 6, 1\]; give uint8"),
    (IMAGES[:0], None, "give uint8"),
    (IMAGES, LABELS[:3], r"labels are int64\[3\]; give whole numbers \[40\]"),
    (IMAGES, LABELS - 1, r"labels are -1\.\.1; choose each from 0"),
    (IMAGES, LABELS + 2**30, r"choose each from 0\.\.1048575"),
  ],
)
def test_arrays_that_cannot_be_used(images, labels, says):
  with pytest.raises(ValueError, match=says):
    from_arrays(images, labels)


def test_a_file_of_arrays_parts_into_splits(tmp_path):
  path = tmp_path / "samples.npz"
  np.savez(path, images=IMAGES, labels=LABELS, scores=np.ones(40))
  load = lambda split, **options: data.load("arrays", split, folder=path, **options)
  train, test = load("train"), load("test")
  assert train.num_classes == 3 and len(test) >= 1
  assert sorted(contents(train) + contents(test)) == sorted(contents(from_arrays(IMAGES)))
  assert load("train", image_size=4, channels=3)[0]["image"].shape == (4, 4, 3)
  np.savez(path, images=IMAGES[:30], labels=LABELS[:30], test_images=IMAGES[30:], test_labels=LABELS[30:])
  assert contents(load("test")) == contents(from_arrays(IMAGES[30:])) and len(load("train")) == 30


def test_files_that_cannot_be_used(tmp_path):
  for name, arrays, says in (
    ("none", {}, "has no suitable array 'images'"),
    ("floats", {"images": IMAGES / 255}, "cannot be used: images are float64"),
    ("one", {"images": IMAGES[:1]}, "only one image"),
  ):
    np.savez(tmp_path / f"{name}.npz", **arrays)
    with pytest.raises(ValueError, match=says):
      data.load("arrays", "test", folder=tmp_path / f"{name}.npz")
  (tmp_path / "text.npz").write_text("no archive")
  with pytest.raises(ValueError, match=r"cannot be read as \.npz"):
    data.load("arrays", "train", folder=tmp_path / "text.npz")
  with pytest.raises(ValueError, match="there is no file"):
    data.load("arrays", "train", folder=tmp_path / "nowhere.npz")
  with pytest.raises(ValueError, match=r"needs an \.npz file; give its path as data\.folder"):
    data.load("arrays", "train")
