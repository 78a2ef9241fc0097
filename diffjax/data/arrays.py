"""Arrays as a data source, in memory or in an .npz file."""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffjax.data.source import Source, sides
from diffjax.data.splits import choose
from diffjax.system.files import shown

MAX_BYTES = 2**34
MAX_CLASSES = 2**20


def from_arrays(images: np.ndarray, labels: np.ndarray | None = None, *, num_classes: int | None = None) -> Source:
  """A source of images uint8 [N, H, W, C] or [N, H, W] with C 1 or 3, and labels int [N] in 0..num_classes-1.

  Args:
    images: the images.
    labels: a label for each, or None.
    num_classes: default: the largest label + 1.

  Raises:
    ValueError: no images, a wrong shape or type, not one label per image, or a label out of range.
  """
  images = np.asarray(images)
  images = images[..., None] if images.ndim == 3 else images
  if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
    raise ValueError(
      f"images are {images.dtype}{list(images.shape)}; give uint8 [N, H, W, C] or [N, H, W] with C 1 or 3, 0..255."
    )
  if labels is None:
    return _source(images, None, 0, range(len(images)))
  labels = np.asarray(labels)
  if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
    raise ValueError(f"labels are {labels.dtype}{list(labels.shape)}; give whole numbers [{len(images)}].")
  num_classes = int(labels.max()) + 1 if num_classes is None else num_classes
  if labels.min() < 0 or labels.max() >= num_classes or num_classes > MAX_CLASSES:
    raise ValueError(
      f"labels are {labels.min()}..{labels.max()}; choose each from 0..{min(num_classes, MAX_CLASSES) - 1}."
    )
  return _source(images, labels, num_classes, range(len(images)))


def open_arrays(
  path: str | os.PathLike, split: str, image_size: int | tuple[int, int] | None, channels: int | None
) -> Source:
  """Opens one split of an .npz file with `images` and optional `labels`, such as the samples.npz of sample.py.

  `test_images` and `test_labels` are the held-out split; without them each image is assigned by a hash of its index.

  Args:
    path: the file.
    split: "train" or "test".
    image_size: side length, or (H, W), after cropping the centre and resizing; None: as stored.
    channels: 1 or 3; None: as stored.

  Raises:
    ValueError: no such file, or unsuitable contents.
  """
  arrays = read_npz(path, ("images", "labels", "test_images", "test_labels"), "give an .npz with an array `images`")
  try:
    parts = {name: from_arrays(arrays[f"{name}images"]) for name in ("", "test_") if f"{name}images" in arrays}
    classes = [arrays[name].max() for name in ("labels", "test_labels") if name in arrays and arrays[name].size]
    num_classes = int(max(classes)) + 1 if classes else 0
    head = "test_" if split == "test" and "test_" in parts else ""
    source = from_arrays(arrays[f"{head}images"], arrays.get(f"{head}labels"), num_classes=num_classes or None)
  except (KeyError, TypeError) as error:
    raise ValueError(f"{path} has no suitable array {error}; give an .npz with an array `images`.") from None
  except ValueError as error:
    raise ValueError(f"{path} cannot be used: {error}") from None
  records: Sequence[int] = range(len(source))
  if "test_" not in parts:
    records = choose([str(i) for i in records], split)
  if not records:
    raise ValueError(f"{path} has only one image, but validation needs one too; add images.")
  from PIL import Image  # here, since it takes long to import

  from diffjax.data.pictures import fit

  height, width, depth = source.shape
  shape = (*(sides(image_size) if image_size else (height, width)), channels or depth)

  def decode(i):
    example = source[i]
    if shape == source.shape:
      return example
    picture = Image.fromarray(example["image"] if depth == 3 else example["image"][..., 0])
    return example | {"image": fit(picture, image_size, shape[-1])}

  return Source(name="arrays", shape=shape, num_classes=source.num_classes, records=records, decode=decode)


def read_npz(
  path: str | os.PathLike, names: Sequence[str], remedy: str, most: int = MAX_BYTES
) -> dict[str, np.ndarray]:
  """Reads the named arrays that an .npz file has; executes nothing from it.

  Raises:
    ValueError: no such file, a damaged one, or arrays of more than `most` bytes; the message ends in `remedy`.
  """
  if not Path(path).is_file():
    raise ValueError(f"there is no file {path}; {remedy}.")
  try:
    with zipfile.ZipFile(path) as archive:
      sizes = [entry.file_size for entry in archive.infolist() if entry.filename.removesuffix(".npy") in names]
    if sum(sizes) > most:
      raise ValueError(f"its arrays take {sum(sizes)} bytes, more than {most}")
    with np.load(path, allow_pickle=False) as stored:
      arrays = {name: stored[name] for name in names if name in stored}
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
      raise ValueError("its entries are not arrays")
  except Exception as error:  # zipfile, zlib and NumPy report damage in many ways
    reason = shown(str(error) or type(error).__name__)
    raise ValueError(f"{path} cannot be read as .npz ({reason}); {remedy}.") from None
  return arrays


def _source(images, labels, num_classes, records):
  example = lambda i: {"image": images[i]} | ({} if labels is None else {"label": np.int32(labels[i])})
  return Source("arrays", images.shape[1:], num_classes, records, example)
