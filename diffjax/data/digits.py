"""scikit-learn's handwritten digits as a TFDS builder: real data without a download."""

import contextlib
import io
import os
import tempfile
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

SIZES = {"train": 1437, "test": 360}


class Digits(tfds.core.GeneratorBasedBuilder):
  """1797 handwritten digits, 8x8 grey, of 43 people (Alpaydin and Kaynak 1998, UCI); 1437 train, 360 test."""

  VERSION = tfds.core.Version("1.0.0")
  code_path = None  # where TFDS would look for download checksums; the search needs a package it does not install

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=type(self).__doc__,
      # A Tensor, not an Image, and array_record: both can be written without TensorFlow.
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
          "label": tfds.features.ClassLabel(num_classes=10),
        }
      ),
      supervised_keys=("image", "label"),
      homepage="https://doi.org/10.24432/C50P49",
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    train, test = train_test_split(np.arange(len(labels)), test_size=SIZES["test"], random_state=0, stratify=labels)
    return {
      "train": self._generate_examples(images[train], labels[train]),
      "test": self._generate_examples(images[test], labels[test]),
    }

  def _generate_examples(self, images, labels):
    for i, (image, label) in enumerate(zip(images, labels)):
      yield i, {"image": image, "label": int(label)}


def open_digits(data_dir: str | os.PathLike | None = None, prepare: bool = True) -> Digits:
  """Opens the digits, preparing them if they are missing, incomplete or damaged; safe with concurrent processes.

  Raises:
    FileNotFoundError: they are not prepared, and `prepare` is False.
    OSError: they can be neither read nor prepared under `data_dir`.
  """
  root = Path(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
  error = None
  for _ in range(3):
    if (builder := _read(root)) is not None:
      return builder
    if not prepare:
      raise FileNotFoundError(f"the digits are not prepared under {root}; open them with prepare=True.")
    try:
      _prepare(root)
    except Exception as e:  # another process may have won the race, so look again
      error = e
  if (builder := _read(root)) is not None:
    return builder
  raise OSError(
    f"the digits cannot be prepared under {root} ({error});"
    " give a writable folder with enough space as data_dir or in the environment variable TFDS_DATA_DIR."
  ) from error


def _read(root: Path) -> Digits | None:
  """The builder if its files exist and are intact, else None."""
  try:
    if not (root / "digits" / str(Digits.VERSION) / "dataset_info.json").exists():
      return None
    builder = Digits(data_dir=root)
    for split, size in SIZES.items():
      records = builder.as_data_source(split)  # pyright: ignore[reportCallIssue]  TFDS's decorator hides the parameters
      if len(records) != size or any(record["image"] is None for record in records):  # None: truncated or corrupted
        return None
    return builder
  except Exception:  # the many ways in which TFDS and array_record report damaged files
    return None


def _prepare(root: Path) -> None:
  """Prepares in a temporary folder and moves it into place atomically, unless another process was first."""
  root.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=".digits-", dir=root) as staging:
    silence = io.StringIO()
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
      Digits(data_dir=staging).download_and_prepare(file_format="array_record")
    staged = Path(staging) / "digits" / str(Digits.VERSION)
    target = root / "digits" / staged.name
    if _read(root) is None:
      target.parent.mkdir(exist_ok=True)
      if target.exists():
        target.rename(Path(staging) / "damaged")
      staged.rename(target)
