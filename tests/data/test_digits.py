import hashlib
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits

from diffjax import data

PREPARE = "import sys; from diffjax import data; print(len(data.load('digits', 'test', data_dir=sys.argv[1])))"


def prepared(folder):
  (version,) = (folder / "digits").iterdir()
  return version


def test_train_and_test_part_the_real_digits(digits_dir):
  train, test = (data.load("digits", split, data_dir=digits_dir) for split in ("train", "test"))
  assert (len(train), len(test)) == (1437, 360)
  assert (train.name, train.shape, train.num_classes) == ("digits", (8, 8, 1), 10)
  parts = [data.in_memory(source) for source in (train, test)]
  assert parts[0]["image"].dtype == np.uint8 and parts[0]["label"].dtype == np.int32
  images, labels = load_digits(return_X_y=True)
  got = sorted((int(k), i.tobytes()) for part in parts for k, i in zip(part["label"], part["image"]))
  want = sorted((int(k), np.round(i * 255 / 16).astype(np.uint8).tobytes()) for k, i in zip(labels, images))
  assert got == want
  # In the proportions of the classes, as near as whole digits allow.
  assert np.abs(np.bincount(parts[1]["label"]) - np.bincount(labels) * 360 / 1797).max() < 1


def test_the_split_is_pinned(digits_dir):
  held_out = data.in_memory(data.load("digits", "test", data_dir=digits_dir))
  assert hashlib.sha256(held_out["image"].tobytes()).hexdigest()[:16] == "ac6ada28192bd51a"


def test_access(digits_dir):
  source = data.load("digits", "test", data_dir=digits_dir)
  np.testing.assert_array_equal(source[-1]["image"], source[359]["image"])
  assert source[np.int32(3)]["label"].dtype == np.int32
  for i in (360, -361):
    with pytest.raises(IndexError):
      source[i]


def test_size_and_channels(digits_dir):
  plain = data.load("digits", "test", data_dir=digits_dir)
  source = data.load("digits", "test", data_dir=digits_dir, image_size=16, channels=3)
  assert source.shape == source[0]["image"].shape == (16, 16, 3)
  # Enlarging keeps the mean but for clipped overshoot, and grey stays grey.
  assert abs(source[0]["image"].mean() - plain[0]["image"].mean()) < 5
  assert (np.ptp(source[0]["image"], axis=-1) == 0).all()


def test_nothing_is_printed_or_left_behind(tmp_path):
  run = subprocess.run([sys.executable, "-W", "default", "-c", PREPARE, tmp_path], capture_output=True, text=True)
  assert (run.returncode, run.stdout, run.stderr) == (0, "360\n", "")
  assert os.listdir(tmp_path) == ["digits"]


@pytest.mark.slow
def test_processes_that_prepare_at_once_agree(tmp_path):
  runs = [subprocess.Popen([sys.executable, "-c", PREPARE, tmp_path], stdout=subprocess.PIPE) for _ in range(2)]
  assert [run.communicate(timeout=60)[0] for run in runs] == [b"360\n"] * 2
  assert os.listdir(tmp_path) == ["digits"]
  assert len(os.listdir(tmp_path / "digits")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["dataset_info.json", "features.json", "*test*", "*train*"])
@pytest.mark.parametrize("how", ["missing", "cut", "flipped"])
def test_a_half_prepared_folder_heals(digits_dir, tmp_path, pattern, how):
  target = tmp_path / "digits" / "1.0.0"
  target.mkdir(parents=True)
  for file in prepared(digits_dir).iterdir():
    content = file.read_bytes()
    if not file.match(pattern):
      (target / file.name).write_bytes(content)
    elif how == "cut":
      (target / file.name).write_bytes(content[: len(content) // 2])
    elif how == "flipped":
      middle = len(content) // 2
      (target / file.name).write_bytes(content[:middle] + bytes([255 - content[middle]]) + content[middle + 1 :])
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    sources = {split: data.load("digits", split, data_dir=tmp_path) for split in ("train", "test")}
  for split, source in sources.items():
    whole = data.in_memory(data.load("digits", split, data_dir=digits_dir))
    np.testing.assert_array_equal(data.in_memory(source)["image"], whole["image"])
  assert os.listdir(tmp_path) == ["digits"]


def test_a_prepared_folder_is_only_read(digits_dir):
  before = {file: file.stat().st_mtime_ns for file in digits_dir.rglob("*")}
  data.load("digits", "train", data_dir=digits_dir)
  assert {file: file.stat().st_mtime_ns for file in digits_dir.rglob("*")} == before


def test_the_default_folder_is_that_of_tfds(digits_dir, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(digits_dir))
  assert len(data.load("digits", "test")) == 360


def test_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(OSError, match=r"cannot be prepared under .*file/sub.*data_dir.*TFDS_DATA_DIR"):
    data.load("digits", "train", data_dir=tmp_path / "file" / "sub")
