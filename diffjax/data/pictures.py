"""From a picture file of any mode and size to uint8 [H, W, C]."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


def read_picture(file: str | Path | BinaryIO) -> Image.Image:
  """Decodes the first frame of a picture file to 8-bit grey ("L") or colour ("RGB").

  EXIF orientation is applied, transparency is laid on white, 16-bit grey 0..65535 and float grey 0..1 are scaled to
  0..255, and palettes and other colour models (CMYK, YCbCr, ...) become RGB.

  Raises:
    Whatever PIL raises for a file that is no picture, damaged, or larger than `PIL.Image.MAX_IMAGE_PIXELS` allows.
  """
  with Image.open(file) as opened:
    image = ImageOps.exif_transpose(opened)
  if image.mode == "F":
    return _grey(np.nan_to_num(np.clip(np.asarray(image), 0, 1)) * 255)
  if image.mode.startswith("I"):
    return _grey(np.asarray(image).astype(np.float64) / 257)
  if image.has_transparency_data:
    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
  return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _grey(values: np.ndarray) -> Image.Image:
  return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def fit(image: Image.Image, size: int | None, channels: int) -> np.ndarray:
  """Crops the central square, resizes it with antialiasing (Lanczos) and converts the channels.

  Args:
    image: any 8-bit picture, "L" or "RGB".
    size: side of the result; None keeps the whole picture as it is.
    channels: 1 (luma, ITU-R 601) or 3.

  Returns:
    uint8 [size, size, channels], 0..255.
  """
  image = image.convert("L" if channels == 1 else "RGB")
  if size is not None and image.size != (size, size):
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
  return np.array(image).reshape(image.height, image.width, channels)


def load_picture(file: str | Path, size: int | None, channels: int, *, like: str | Path | None = None) -> np.ndarray:
  """The picture of a file as `fit` makes it, uint8 [size, size, channels].

  `like` is a file whose picture this one must cover after both are cropped: a mask's picture, for instance.

  Raises:
    ValueError: if a file is missing, is no picture, or differs from `like` in its proportions.
  """
  image = _open(file)
  if like is not None:
    other = _open(like)
    if image.width * other.height != image.height * other.width:
      raise ValueError(
        f"{file} is {image.width} x {image.height} and {like} {other.width} x {other.height} pixels; "
        "give both the same proportions."
      )
  return fit(image, size, channels)


def _open(file):
  if not Path(file).is_file():
    raise ValueError(f"there is no file {file}; give the path of a picture.")
  try:
    return read_picture(file)
  except Exception as error:  # decoders report damage in many ways: OSError, SyntaxError, struct.error, ...
    reason = "no picture, or damaged" if isinstance(error, UnidentifiedImageError) else error
    raise ValueError(f"{file} cannot be read ({reason}); give a picture file such as .png or .jpg.") from error
