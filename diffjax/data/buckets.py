"""Aspect-ratio buckets: sizes of about the same area, so that pictures need not be cropped to squares."""

import math
from collections.abc import Sequence

import numpy as np


def bucket_sizes(size: int, multiple: int = 64, ratio: float = 2.0) -> tuple[tuple[int, int], ...]:
  """Sizes (H, W) for pictures between 1 : `ratio` and `ratio` : 1, as high as their width allows; the square is one.

  Args:
    size: each has at most `size` x `size` pixels.
    multiple: of which all sides are multiples; for Stable Diffusion's networks 64.
    ratio: of the longer side to the shorter one, at most.

  Raises:
    ValueError: `size` is not a multiple of `multiple`.

  >>> bucket_sizes(256, 64)
  ((320, 192), (256, 256), (192, 320))
  """
  if size < multiple or size % multiple:
    raise ValueError(f"size is {size}, but must be a multiple of {multiple}; change it, or the multiple.")
  widths = range(multiple, int(size * ratio) + 1, multiple)
  sizes = [(size * size // width // multiple * multiple, width) for width in widths]
  tall = {height: (height, width) for height, width in sizes}  # of equal heights, the widest
  return tuple((h, w) for h, w in tall.values() if h and max(h, w) <= ratio * min(h, w))


def nearest_bucket(sizes: Sequence[tuple[int, int]], height: int, width: int) -> int:
  """The index of the size whose aspect ratio is nearest to that of a picture, on a logarithmic scale."""
  return int(np.argmin([abs(math.log(h * width / (w * height))) for h, w in sizes]))
