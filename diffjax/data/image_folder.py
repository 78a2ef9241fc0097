"""A folder of image files as a data source.

All sub-folders are searched, except hidden ones; of an animation the first frame is read. If every image is in a
sub-folder, and some first-level sub-folder holds images directly, the names of the first-level sub-folders are the
classes, in sorted order; otherwise there are no labels.

If the folder holds a train/ and a test/ (or a val/, valid/ or validation/) and nothing else, that is the split, and
classes are folders within those. Otherwise about 5 % of the images are held out, each by a hash of its relative path,
whatever else the folder holds. Images may have captions; see `picture_captions`.
"""

import functools
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np

from diffjax.data.buckets import nearest_bucket
from diffjax.data.picture_captions import read_captions
from diffjax.data.pictures import BRANDS, fit, read_picture, why_unreadable
from diffjax.data.source import Source, sides
from diffjax.data.splits import choose
from diffjax.system.files import shown
from diffjax.warning import DiffjaxWarning

SUFFIXES = frozenset(
  ".apng .avif .bmp .dib .gif .j2k .jfif .jp2 .jpe .jpeg .jpg .pbm .pcx .pgm .png .pnm .ppm .qoi .tga .tif .tiff"
  " .webp".split()
)
CAMERA_SUFFIXES = frozenset(
  ".3fr .arw .cr2 .cr3 .dng .erf .heic .heif .hif .jxl .kdc .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2 .sr2 .srw"
  " .x3f".split()
)
"""Suffixes of camera and phone formats that PIL alone cannot read; such files are reported, not ignored."""
TRAIN_FOLDERS, TEST_FOLDERS = ("train", "training"), ("test", "val", "valid", "validation")
"""Folder names for the splits, in lower case; of several held-out folders, the first one in this order is used."""
HEIF = frozenset((".heic", ".heif", ".hif"))
"""Those CAMERA_SUFFIXES that pillow-heif reads."""
PICTURES = SUFFIXES | CAMERA_SUFFIXES
OTHERS = frozenset(
  ".bak .cfg .crdownload .csv .gz .html .json .jsonl .lock .log .md .mov .mp4 .npy .npz .old .orig .parquet .part"
  " .pdf .pkl .pt .py .tar .thm .tmp .toml .tsv .txt .xml .yaml .yml .zip".split()
)
"""Suffixes of files that are not opened, as they are no images, or copies; any other file is an image if it starts
like one."""
KEEP_BYTES = 2**30


def open_folder(
  folder: str | os.PathLike,
  split: str,
  image_size: int | tuple[int, int],
  channels: int,
  max_unreadable: float = 0.1,
  captions: bool = False,
  buckets: Sequence[tuple[int, int]] = (),
) -> Source:
  """Opens a folder of images as [H, W, channels]; each is decoded once now, as a check.

  Args:
    folder: the folder.
    split: "train" or "test".
    image_size: side length in pixels, or (H, W), after cropping the centre and resizing.
    channels: 1 or 3.
    max_unreadable: fraction of files, in [0, 1], that may be unreadable; those are skipped and named in a warning.
    captions: read the images' captions, if there are any.
    buckets: sizes (H, W), of which each image takes the one nearest to its proportions instead of `image_size`.

  Raises:
    ValueError: no folder, no images, too many unreadable ones, or a single one, so that none can be held out; captions
      of only a part of the images.
  """
  folder = Path(folder).expanduser()
  if not folder.is_dir():
    there = "is a file" if folder.exists() else "does not exist"
    raise ValueError(f"image folder {folder} {there}; give a folder that holds image files.")
  paths = _find(folder)
  if not paths:
    raise ValueError(f"image folder {folder} holds no images; add files such as .jpg, .png or .webp to it.")
  heads = _split_folders(paths)
  classes, labels = _label([path.partition("/")[2] for path in paths] if heads else paths)
  stamps = tuple(_stamp(folder, path) for path in paths)
  sizes = tuple(map(tuple, buckets)) or (sides(image_size),)
  images, chosen_sizes, reasons = _decode_all(folder, stamps, sizes, channels)
  _report(folder, dict(zip(paths, reasons)), max_unreadable)
  readable = [i for i, reason in enumerate(reasons) if reason is None]
  names = [paths[i] for i in readable]
  texts = read_captions(folder, names) if captions else None
  if "test" in heads:
    chosen = [i for i, name in enumerate(names) if name.startswith(f"{heads[split]}/")]
    if not chosen:
      raise ValueError(f"{folder / heads[split]} holds no readable image; add some, or move the folder away.")
  else:
    chosen = choose(names, split)
  if not chosen:
    raise ValueError(f"image folder {folder} has only one image, but validation needs one too; add images.")

  def decode(i):
    image = images[i]
    if image is None:
      image = fit(read_picture(folder / paths[i]), sizes[chosen_sizes[i]], channels)
    return {"image": image} | ({"label": labels[i]} if classes else {})

  return Source(
    name="image_folder",
    shape=(*sides(image_size), channels),
    num_classes=len(classes),
    records=[readable[i] for i in chosen],
    decode=decode,
    text=None if texts is None else dict(zip(readable, texts)).__getitem__,
    groups=np.array([chosen_sizes[readable[i]] for i in chosen]) if buckets else None,
  )


def _find(folder: Path) -> list[str]:
  """Relative paths, with forward slashes, of all image files, sorted; follows links, but each folder once."""
  found, seen = [], set()
  for root, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
    real = os.path.realpath(root)
    folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
    if real not in seen:
      files = [Path(root, name) for name in files if not name.startswith(".")]
      found += [file for file in files if file.suffix.lower() in PICTURES or _starts_like_a_picture(file)]
    seen.add(real)
  return sorted(file.relative_to(folder).as_posix() for file in found)


def _starts_like_a_picture(file: Path) -> bool:
  """Whether a file of an unknown suffix, or none, starts with the magic bytes of an image."""
  if file.suffix.lower() in OTHERS or file.name.endswith("~") or not os.path.isfile(file):
    return False
  try:
    with open(file, "rb") as opened:
      start = opened.read(12)
  except OSError:
    return False
  heif = start[4:8] == b"ftyp" and start[8:] in BRANDS
  return heif or start.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8")) or start[8:] == b"WEBP"


def _split_folders(paths: list[str]) -> dict[str, str]:
  """{"train": its folder, "test": its folder} if the first-level folders are exactly a split; otherwise {}.

  With train/ only, without "test".
  """
  heads = {head.lower(): head for head, slash, _ in (path.partition("/") for path in paths) if slash}
  if any("/" not in path for path in paths) or not set(heads) <= {*TRAIN_FOLDERS, *TEST_FOLDERS}:
    return {}
  train, test = ([heads[name] for name in names if name in heads] for names in (TRAIN_FOLDERS, TEST_FOLDERS))
  if len(train) != 1:
    return {}
  if len(test) > 1:
    warnings.warn(
      f"{test[0]}/ is held out, and {', '.join(test[1:])} ignored; rename it to change that.",
      DiffjaxWarning,
      stacklevel=4,
    )
  return {"train": train[0]} | ({"test": test[0]} if test else {})


def _refuse(error: OSError) -> None:
  """Raises, as skipping a folder would change the classes and labels."""
  raise ValueError(f"{error.filename} cannot be listed ({error.strerror}); make it readable, or move it away.")


def _stamp(folder: Path, path: str) -> tuple[str, int | None, int | None]:
  """(path, size, modification time); no size for pipes, devices, and broken or circular links."""
  if not os.path.isfile(folder / path):
    return path, None, None
  status = os.stat(folder / path)
  return path, status.st_size, status.st_mtime_ns


def _label(paths: list[str]) -> tuple[list[str], list[np.int32]]:
  """Sorted class names and a label per path; empty if the folders do not define classes."""
  parts = [PurePosixPath(path).parts for path in paths]
  loose = sum(len(p) == 1 for p in parts)
  if not any(len(p) == 2 for p in parts):
    return [], []
  if loose:
    warnings.warn(
      f"{loose} images are not in any sub-folder, so sub-folders are not used as labels;"
      " move them into sub-folders if you want labels.",
      DiffjaxWarning,
      stacklevel=4,
    )
    return [], []
  classes = sorted({p[0] for p in parts})
  return classes, [np.int32(classes.index(p[0])) for p in parts]


@functools.lru_cache(maxsize=1)
def _decode_all(
  folder: Path,
  stamps: tuple[tuple[str, int | None, int | None], ...],
  sizes: tuple[tuple[int, int], ...],
  channels: int,
) -> tuple[list[np.ndarray | None], list[int], list[str | None]]:
  """Decodes every file: per file the image, unless all exceed KEEP_BYTES; which size it has; and an error or None.

  The last result is cached, so that opening "test" after "train" does not decode again; the stamps (path, size,
  modification time) detect changed files.
  """
  keep = len(stamps) * max(height * width for height, width in sizes) * channels <= KEEP_BYTES
  images: list[np.ndarray | None] = [None] * len(stamps)
  chosen = [0] * len(stamps)

  def decode(i):
    path, size, _ = stamps[i]
    if size is None:
      return "not a regular file, or a broken link"
    if size == 0:
      return "empty file"
    try:
      picture = read_picture(folder / path)
      chosen[i] = nearest_bucket(sizes, picture.height, picture.width)
      image = fit(picture, sizes[chosen[i]], channels)
    except Exception as error:  # decoders report damage in many ways: OSError, SyntaxError, struct.error, ...
      if Path(path).suffix.lower() in CAMERA_SUFFIXES - HEIF:
        return f"{Path(path).suffix} is not supported: convert it to .jpg or .png"
      return why_unreadable(error, folder / path)
    if keep:
      image.flags.writeable = False
      images[i] = image

  with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
    warnings.simplefilter("ignore")
    reasons = list(pool.map(decode, range(len(stamps))))
  return images, chosen, reasons


def _report(folder: Path, reasons: dict[str, str | None], max_unreadable: float) -> None:
  bad = [f"{shown(path, 300)} ({reason})" for path, reason in reasons.items() if reason is not None]
  if not bad:
    return
  named = ", ".join(bad[:10]) + (f" and {len(bad) - 10} more" if len(bad) > 10 else "")
  count = f"{len(bad)} of {len(reasons)} image files under {folder} cannot be read"
  if len(bad) > max_unreadable * len(reasons):
    raise ValueError(f"{count}, more than the {max_unreadable:.0%} allowed; repair or remove {named}.")
  warnings.warn(f"{count} and are skipped; repair or remove {named}.", DiffjaxWarning, stacklevel=4)
