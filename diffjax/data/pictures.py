"""Reads image files of any mode and size to uint8 [H, W, C]."""

import functools
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from diffjax.system.files import shown

FORMATS = "AVIF BMP DIB GIF HEIF JPEG JPEG2000 PCX PNG PPM QOI TGA TIFF WEBP".split()
"""Formats that are read, whatever the file name. PIL knows more, but for EPS it would run Ghostscript on the file."""
BRANDS = {
  **dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"), "HEIC"),
  **dict.fromkeys((b"avif", b"avis"), "AVIF"),
}
"""Bytes 8 to 12 of files in the HEIF container (ISO 23008-12), after b"ftyp"."""
MISSING = {
  "HEIC": 'HEIC needs pillow-heif: pip install -e ".[heic]"',
  "AVIF": "AVIF needs a newer Pillow: pip install --upgrade pillow",
}


def read_picture(file: str | Path | BinaryIO) -> Image.Image:
  """Decodes the first frame of an image file to 8-bit grey ("L") or colour ("RGB").

  Applies the EXIF orientation, composites transparency over white, scales 16-bit grey 0..65535 and float grey 0..1 to
  0..255, and converts palettes and other colour models (CMYK, YCbCr, ...) to RGB.

  Raises:
    Whatever PIL raises for a file that is damaged or in none of FORMATS; `PIL.Image.DecompressionBombError` for more
    than `PIL.Image.MAX_IMAGE_PIXELS` pixels.
  """
  _init()
  known = [name for name in FORMATS if name in Image.OPEN]  # PIL may be built without some
  with Image.open(file, formats=known) as opened:
    if Image.MAX_IMAGE_PIXELS and opened.width * opened.height > Image.MAX_IMAGE_PIXELS:  # PIL raises at twice that
      raise Image.DecompressionBombError(
        f"{opened.width} x {opened.height} pixels are more than {Image.MAX_IMAGE_PIXELS}, as in a decompression bomb"
      )
    image = ImageOps.exif_transpose(opened)
  if image.mode == "F":
    return _grey(np.nan_to_num(np.clip(np.array(image), 0, 1), copy=False), 255.0)
  if image.mode.startswith("I"):
    values = np.array(image, np.float32)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
      values[values == clear] = 65535
    return _grey(values, 1 / 257)
  if image.has_transparency_data:
    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
  return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _grey(values: np.ndarray, scale: float) -> Image.Image:
  """Scales in place, as images may be large."""
  values *= np.float32(scale)
  np.clip(np.rint(values, out=values), 0, 255, out=values)
  return Image.fromarray(values.astype(np.uint8))


def fit(image: Image.Image, size: int | tuple[int, int] | None, channels: int) -> np.ndarray:
  """Crops the centre to the proportions of size, resizes it with antialiasing (Lanczos) and converts the channels.

  Args:
    image: any 8-bit image, "L" or "RGB".
    size: (H, W) of the result, or the side of a square; None neither crops nor resizes.
    channels: 1 (luma, ITU-R 601) or 3.

  Returns:
    uint8 [H, W, channels], 0..255.
  """
  image = image.convert("L" if channels == 1 else "RGB")
  height, width = (size, size) if isinstance(size, int) else size or (image.height, image.width)
  if image.size != (width, height):
    wide = image.width * height > image.height * width
    w = round(image.height * width / height) if wide else image.width
    h = image.height if wide else round(image.width * height / width)
    left, top = (image.width - w) // 2, (image.height - h) // 2
    image = image.resize((width, height), Image.Resampling.LANCZOS, box=(left, top, left + w, top + h))
  return np.array(image).reshape(image.height, image.width, channels)


def load_picture(
  file: str | Path, size: int | tuple[int, int] | None, channels: int, *, like: str | Path | None = None
) -> np.ndarray:
  """Reads an image file and applies `fit`: uint8 [H, W, channels].

  `like` is an image file that must have the same proportions, e.g. the image for a mask.

  Raises:
    ValueError: if a file is missing, is not an image, or differs from `like` in its proportions.
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


@functools.cache
def _init() -> None:
  """Registers PIL's formats, and HEIC if pillow-heif is installed."""
  Image.init()
  try:
    import pillow_heif  # pyright: ignore[reportMissingImports]  an extra
  except ImportError:
    return
  pillow_heif.register_heif_opener()


def why_unreadable(error: Exception, file: str | Path) -> str:
  """A short reason why `read_picture` failed on a file; names the package to install if one is missing."""
  if isinstance(error, UnidentifiedImageError):
    with open(file, "rb") as opened:
      start = opened.read(12)
    kind = BRANDS.get(start[8:]) if start[4:8] == b"ftyp" else None
    return MISSING[kind] if kind and not _reads(kind) else "not an image, or damaged"
  return shown(str(error).strip() or type(error).__name__, 200)


def _reads(kind: str) -> bool:
  return {"HEIC": "HEIF"}.get(kind, kind) in Image.OPEN


def _open(file):
  if not os.path.isfile(file):  # Path.is_file raises for some links and names
    raise ValueError(f"there is no file {file}; give the path of an image.")
  try:
    return read_picture(file)
  except Exception as error:  # decoders report damage in many ways: OSError, SyntaxError, struct.error, ...
    reason = why_unreadable(error, file)
    raise ValueError(f"{file} cannot be read ({reason}); give an image file such as .png or .jpg.") from error
