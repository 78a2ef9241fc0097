"""Image sets of TensorFlow Datasets, read with or without TensorFlow."""

import difflib
import functools
import importlib.util
import io
import os
import re
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import naming

from diffjax.data.digits import open_digits
from diffjax.data.pictures import fit, read_picture
from diffjax.data.source import Source, sides

CAPTIONS = ("caption", "captions")
"""Features with the text of an image, or several."""


def open_tfds(
  name: str,
  split: str,
  image_size: int | tuple[int, int] | None,
  channels: int | None,
  data_dir: str | os.PathLike | None,
  prepare: bool = True,
) -> Source:
  """Opens "digits" or any image set in TFDS; arguments and errors as `diffjax.data.load`."""
  builder = open_digits(data_dir, prepare) if name == "digits" else _open_builder(name, data_dir)
  features = _info(builder).features
  image, label = (features[key] if key in features else None for key in ("image", "label"))
  stored = getattr(image, "shape", ())
  if image is None or len(stored) != 3 or stored[2] not in (1, 3, 4) or image.np_dtype != np.uint8:
    held = ", ".join(features.keys())
    raise ValueError(f"data set {name!r} holds no 8-bit images under 'image' (it holds {held}); choose an image set.")
  if image_size is None and None in stored[:2]:
    raise ValueError(f"the images of data set {name!r} differ in size; choose one by image_size.")
  if not _is_prepared(builder):
    if not prepare:
      raise FileNotFoundError(f"data set {name!r} is not prepared under {builder.data_dir}; open it with prepare=True.")
    _prepare(builder, name)
  depth = channels or min(stored[2], 3)
  height, width = (stored[0], stored[1]) if image_size is None else sides(image_size)
  num_classes = (label.num_classes or 0) if isinstance(label, tfds.features.ClassLabel) else 0
  return Source(
    name=name,
    shape=(height, width, depth),
    num_classes=num_classes,
    records=_open_records(builder, name, _stored_split(builder, name, split, num_classes > 0)),
    decode=functools.partial(_decode, name=name, size=image_size, channels=depth, labelled=num_classes > 0),
    text=next((functools.partial(_caption, key=key) for key in CAPTIONS if key in features), None),
  )


def _caption(record: dict[str, Any], key: str) -> str:
  """The caption of a record, or the first of several; empty if it has none."""
  found = record[key]
  while not isinstance(found, bytes | str):
    found = found["text"] if isinstance(found, dict) else found[0] if len(found) else ""
  return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)


def _open_builder(name: str, data_dir: str | os.PathLike | None) -> tfds.core.DatasetBuilder:
  try:
    if not naming.parse_builder_name_kwargs(name)[0].namespace:
      return tfds.builder(name, data_dir=data_dir)
  except Exception as error:
    known = [*tfds.list_builders(with_community_datasets=False), "digits", "image_folder", "arrays"]
    if re.split("[/:]", name)[0] in known:  # a missing configuration, version or package
      raise ValueError(
        f"TensorFlow Datasets cannot open {name!r} ({_first_line(error)}); correct the name, or install what it needs."
      ) from error
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
    raise ValueError(
      f"there is no data set {name!r} (did you mean {nearest!r}?); choose digits, image_folder, arrays or an image set"
      " of TensorFlow Datasets."
    ) from error
  raise ValueError(f"data set {name!r} would load external code; choose one of TensorFlow Datasets' own.")


def _info(builder: tfds.core.DatasetBuilder) -> Any:
  """`builder.info` as Any, as its declared type makes everything optional."""
  return builder.info


def _is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
  return (builder.data_path / "dataset_info.json").exists()


def _prepare(builder: tfds.core.DatasetBuilder, name: str) -> None:
  encodes = any(isinstance(feature, tfds.features.Image) for feature in _info(builder).features.values())
  if encodes and importlib.util.find_spec("tensorflow") is None:
    raise ImportError(
      f"data set {name!r} is not prepared under {builder.data_dir}, and preparing it needs TensorFlow;"
      ' run pip install -e ".[tensorflow]" once.'
    )
  try:
    builder.download_and_prepare(file_format="array_record")
  except Exception as error:
    if not _is_prepared(builder):  # unless another process has prepared it meanwhile
      raise OSError(
        f"data set {name!r} could not be downloaded and prepared under {builder.data_dir} ({_first_line(error)});"
        " check the network and the disk, or copy a folder prepared elsewhere (array_record format) there."
      ) from error
    builder.info.read_from_directory(builder.data_dir)


def _stored_split(builder: tfds.core.DatasetBuilder, name: str, split: str, labelled: bool) -> str:
  splits = builder.info.splits
  if "train" not in splits:
    raise ValueError(f"data set {name!r} has no 'train' split, only {sorted(splits)}; choose another set.")
  # some sets keep the labels of "test" secret, which TFDS stores as -1
  serves = lambda s: s in splits and not (labelled and _open_records(builder, name, s)[0]["label"] < 0)
  held_out = next(filter(serves, ("test", "validation")), None)
  if split == "train":
    return "train" if held_out else "train[:95%]"
  return held_out or "train[95%:]"


def _open_records(builder: tfds.core.DatasetBuilder, name: str, split: str) -> Any:
  encoded = isinstance(_info(builder).features["image"], tfds.features.Image)
  # `read_picture` decodes stored files, as TFDS would warn that OpenCV is missing.
  decoders = {"image": tfds.decode.SkipDecoding()} if encoded else None
  try:
    records = builder.as_data_source(split, decoders=decoders)  # pyright: ignore[reportCallIssue]  TFDS's decorator hides the parameters
    if records[0]["image"] is None:  # what array_record and TFDS return for a truncated file
      raise OSError("damaged records")
    return records
  except NotImplementedError as error:
    raise ValueError(
      f"data set {name!r} is prepared under {builder.data_dir} as {_info(builder).file_format.value}, which has no"
      " random access; delete that folder or give another data_dir to prepare it again as array_record."
    ) from error
  except Exception as error:
    raise OSError(
      f"data set {name!r} under {builder.data_dir} cannot be read ({_first_line(error)});"
      " delete that folder to prepare it again."
    ) from error


def _decode(
  record: dict[str, Any], name: str, size: int | tuple[int, int] | None, channels: int, labelled: bool
) -> dict[str, Any]:
  image = record["image"]
  if image is None:
    raise OSError(f"a record of data set {name!r} is damaged; delete its prepared folder to prepare it again.")
  if isinstance(image, bytes):
    image = fit(read_picture(io.BytesIO(image)), size, channels)
  elif image.shape[2] != channels or (size is not None and image.shape[:2] != sides(size)):
    image = fit(Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image), size, channels)
  return {"image": image} | ({"label": np.int32(record["label"])} if labelled else {})


def _first_line(error: Exception) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0]
