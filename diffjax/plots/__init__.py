"""Figures to look at: grids, film strips, animations and curves.

Pictures are uint8 [N, H, W, C] with C 1 (grey) or 3 (RGB), 0..255. Small ones are enlarged by integer factors without
smoothing, so that pixels stay sharp. Files are written atomically.
"""

import os
from collections.abc import Sequence

import einops
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diffjax.system.writing import replacing

TILE = 56
"""Approximate size in pixels that small pictures are enlarged to."""
PAPER, INK, FAINT = (255, 255, 255), (38, 43, 51), (120, 128, 140)
SEAM = (86, 92, 104)
INK_HEX = "#262b33"
NOTE = 12
"""Height in pixels of the note below a picture."""


def save(picture: Image.Image, path: str | os.PathLike) -> None:
  """Writes a picture atomically, in the format of the path's suffix."""
  with replacing(path) as part:
    picture.save(part)


def grid(
  images: np.ndarray, columns: int | None = None, scale: int | None = None, notes: Sequence[str] = ()
) -> Image.Image:
  """Pictures in rows of `columns` (default: about square), enlarged `scale` times, with thin seams between them.

  images uint8 [N, H, W, C]; by default, 8x8 ones become 56 pixels wide. `notes` are written below them.
  Raises ValueError for another shape or dtype, no pictures, columns < 1, scale < 1, or a wrong number of notes.
  """
  images = _checked(images, ndim=4, axes="[N, H, W, C]")
  if columns is None:
    columns = int(np.ceil(np.sqrt(len(images))))
  if columns < 1:
    raise ValueError(f"columns is {columns}; give 1 or more.")
  columns = min(columns, len(images))
  tiles = _enlarge(images, scale)
  count, height, width, _ = tiles.shape
  if len(notes) not in (0, count):
    raise ValueError(f"there are {len(notes)} notes for {count} images; give one for each, or none.")
  rows, seam = -(-count // columns), _seam(tiles)
  below = NOTE + seam if len(notes) else 0
  sheet = np.full((rows * (height + below + seam) + seam, columns * (width + seam) + seam, 3), SEAM, np.uint8)
  corners = [(seam + i % columns * (width + seam), seam + i // columns * (height + below + seam)) for i in range(count)]
  for (x, y), tile in zip(corners, tiles):
    sheet[y : y + height, x : x + width] = tile  # a grey tile's one channel spreads over three
  picture = Image.fromarray(sheet)
  pen, font = ImageDraw.Draw(picture), ImageFont.load_default(NOTE)
  for (x, y), note in zip(corners, notes):
    pen.text((x + width / 2, y + height + seam), note, PAPER, font, anchor="ma")
  return picture


def film_strip(trajectory: np.ndarray, frames: int = 12, scores: np.ndarray | None = None) -> Image.Image:
  """One row per picture, time from left to right: at most `frames` evenly spaced moments, including first and last.

  trajectory uint8 [T, N, H, W, C]; scores [T, N], written below each. Raises ValueError for other shapes or dtypes, or
  frames < 1.
  """
  trajectory = _checked(trajectory, ndim=5, axes="[T, N, H, W, C]")
  if frames < 1:
    raise ValueError(f"frames is {frames}; give 1 or more.")
  last = len(trajectory) - 1
  picked = np.linspace(last, 0, min(frames, last + 1)).round().astype(int)[::-1]
  notes = () if scores is None else [f"{score:.2f}" for score in np.asarray(scores)[picked].T.ravel()]
  rows = einops.rearrange(trajectory[picked], "T N H W C -> (N T) H W C")
  return grid(rows, columns=len(picked), notes=notes)


def animation(trajectory: np.ndarray, path: str | os.PathLike, milliseconds: int = 80, hold: int = 2000) -> None:
  """Writes a looping GIF of the grid over time: `milliseconds` per frame, and the last one held for `hold`.

  trajectory uint8 [T, N, H, W, C]. Raises ValueError for another shape or dtype.
  """
  trajectory = _checked(trajectory, ndim=5, axes="[T, N, H, W, C]")
  frames = [grid(moment) for moment in trajectory]
  if trajectory.shape[-1] == 1:
    frames = [frame.convert("L") for frame in frames]
  durations = [milliseconds] * (len(frames) - 1) + [hold]
  with replacing(path) as part:
    frames[0].save(part, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)


def real_beside_drawn(real: np.ndarray, drawn: np.ndarray, nearest: np.ndarray) -> Image.Image:
  """Real pictures next to drawn ones, and below them the first drawn ones above their nearest training examples.

  real [N, H, W, C], drawn [M, H, W, C], nearest [M, H, W, C] (the training example nearest to each drawn one), uint8.
  Shows up to 60 of each and 20 pairs. Raises ValueError for other shapes or dtypes.
  """
  if np.shape(drawn) != np.shape(nearest):
    raise ValueError(
      f"drawn has shape {np.shape(drawn)} and nearest {np.shape(nearest)}; pass one nearest image per sample."
    )
  columns, margin, gap = 10, 24, 28
  left, right = (grid(images[: 6 * columns], columns) for images in (real, drawn))
  pairs = [
    grid(np.concatenate([drawn[i : i + columns], nearest[i : i + columns]]), min(columns, len(drawn) - i))
    for i in range(0, min(len(drawn), 2 * columns), columns)
  ]
  inner = max(left.width, right.width, *(pair.width for pair in pairs), 300)  # 300: the captions need room
  size = max(15, inner // 32)
  first, second = margin, margin + inner + gap
  below = margin + 2 * size + max(left.height, right.height) + gap
  sheet = Image.new("RGB", (second + inner + margin, below + 2 * size + pairs[0].height + margin), PAPER)
  pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size)
  for x, y, title, note in (
    (first, margin, "Real", "held out from training"),
    (second, margin, "Drawn", "by the model"),
    (first, below, "New or copied?", "Drawn pictures, each above the training example nearest to it"),
  ):
    pen.text((x, y), title, INK, font)
    pen.text((x + pen.textlength(title + "  ", font), y), note, FAINT, font)
  for x, y, block in (
    (first, margin, left),
    (second, margin, right),
    *((x, below, b) for x, b in zip((first, second), pairs)),
  ):
    sheet.paste(block, (x, y + 2 * size))
  return sheet


def loss_curve(steps, losses, path: str | os.PathLike, title: str = "Training loss") -> None:
  """Writes a plot of the loss: all values faint, their running mean bold, log scale if all are positive.

  steps, losses [N]; values that are not finite are left out. Raises ValueError unless both have the same length.
  """
  from matplotlib.figure import Figure

  steps, losses = np.asarray(steps, float), np.asarray(losses, float)
  if steps.ndim != 1 or steps.shape != losses.shape:
    raise ValueError(f"steps have shape {steps.shape} and losses {losses.shape}; give two lists of one length.")
  steps, losses = steps[np.isfinite(losses)], losses[np.isfinite(losses)]
  figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
  axes = figure.subplots()
  axes.plot(steps, losses, color="#9db7d8", linewidth=0.8)
  axes.plot(steps, _running_mean(losses), color="#1f4e8c", linewidth=2)
  if len(losses) and losses.min() > 0:
    axes.set_yscale("log")
  axes.set_title(title, loc="left", fontweight="bold")
  axes.set_xlabel("step")
  axes.grid(which="both", color="#e6e9ee", linewidth=0.6)
  axes.spines[["top", "right"]].set_visible(False)
  axes.margins(x=0.01)
  with replacing(path) as part:
    figure.savefig(part)


def similarity_matrix(cosines: np.ndarray, images: np.ndarray, texts: Sequence[str], path: str | os.PathLike) -> None:
  """Writes a plot of the similarity matrix: pictures from top to bottom, captions from left to right.

  cosines [N, T], images uint8 [N, H, W, C], T texts. Raises ValueError for inconsistent shapes.
  """
  from matplotlib.figure import Figure

  images, cosines = _checked(images, ndim=4, axes="[N, H, W, C]"), np.asarray(cosines)
  rows, columns = len(images), len(texts)
  if cosines.shape != (rows, columns):
    raise ValueError(f"cosines have shape {cosines.shape}; give one for each of {rows} images and {columns} texts.")
  figure = Figure(figsize=(1.4 + 0.6 * columns, 1.8 + 0.6 * rows), dpi=110, layout="constrained")
  left, axes = figure.subplots(1, 2, width_ratios=(1, columns), sharey=True)
  left.imshow(np.asarray(grid(images, columns=1)), extent=(0, 1, rows, 0), aspect="auto", interpolation="nearest")
  left.set_axis_off()
  left.set_ylim(rows, 0)
  axes.imshow(cosines, cmap="Blues", vmin=min(0.0, cosines.min()), vmax=1, extent=(0, columns, rows, 0), aspect="auto")
  for row, column in np.ndindex(cosines.shape):
    value = cosines[row, column]
    axes.text(column + 0.5, row + 0.5, f"{value:.2f}", ha="center", va="center", color="w" if value > 0.6 else INK_HEX)
  axes.set_xticks(np.arange(columns) + 0.5, texts, rotation=40, ha="right")
  axes.set_yticks([])
  axes.spines[:].set_visible(False)
  axes.set_title("Similarity of pictures and captions, cosine", loc="left", fontweight="bold")
  with replacing(path) as part:
    figure.savefig(part)


def _running_mean(values: np.ndarray) -> np.ndarray:
  """Mean of each value and its neighbours; the window spans about a thirtieth of all, truncated at both ends."""
  half = len(values) // 60
  total = np.concatenate([[0.0], np.cumsum(values)])
  centre = np.arange(len(values))
  low, high = np.maximum(centre - half, 0), np.minimum(centre + half + 1, len(values))
  return (total[high] - total[low]) / (high - low)


def _checked(images: np.ndarray, ndim: int, axes: str) -> np.ndarray:
  images = np.asarray(images)
  if images.ndim != ndim or images.shape[-1] not in (1, 3) or images.dtype != np.uint8 or not images.size:
    raise ValueError(f"images are {images.dtype} {list(images.shape)}; give uint8 {axes} with C 1 or 3, at least one.")
  return images


def _enlarge(images: np.ndarray, scale: int | None) -> np.ndarray:
  if scale is None:
    scale = max(1, round(TILE / max(images.shape[1:3])))
  if scale < 1:
    raise ValueError(f"scale is {scale}; give a whole number, 1 or more.")
  return images.repeat(scale, axis=1).repeat(scale, axis=2)


def _seam(tiles: np.ndarray) -> int:
  return max(1, max(tiles.shape[1:3]) // 28)
