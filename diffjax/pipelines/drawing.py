"""From noise to x0, and from x0 to images, each a compiled program, batch by batch over all devices."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import editing, randomness, samplers
from diffjax.cluster import devices, processes
from diffjax.cluster.layouts import DrawingLayout
from diffjax.codecs import to_uint8
from diffjax.guidance.energy import warn_nonfinite
from diffjax.samplers.adaptive import Progress
from diffjax.sampling import sample
from diffjax.system import memory
from diffjax.typing import Array, Codec, Cond, Denoiser, PyTree


class Drawn(NamedTuple):
  """Drawn images and accompanying data.

  Attributes:
    images: uint8 [num, H, W, C], or float32 in about [-1, 1] on request.
    path: on request, the trajectory [steps + 1, num, H, W, C] in the dtype of images, scaled to unit variance.
    noise: with floats, the standard normal noise [num, ...] that the images started from.
    calls: int [num], network calls per image, for samplers that count them.
  """

  images: np.ndarray
  path: np.ndarray | None = None
  noise: np.ndarray | None = None
  calls: np.ndarray | None = None


class Programs(NamedTuple):
  """The compiled functions of drawing; what they take and return has the batch axis first, the path too.

  Attributes:
    draw: (denoiser, sampler, sigmas, std, key, start, numbers [b], (cond, noise)) -> {"x0"}, and where there are
      any "noise", "calls" and "path", as in `Drawn`.
    decode: (codec, x0) -> {"images", "finite" [b]}.
    decode_path: (codec, path) -> the images of each of its moments.
  """

  draw: Callable
  decode: Callable
  decode_path: Callable


@functools.cache
def compiled(layout: DrawingLayout, shape: tuple[int, ...], floats: bool, trajectory: bool) -> Programs:
  """The programs for x0 of a shape; decoding is apart, so that the model and its codec need not be in memory at once.

  Args:
    layout: how arrays are laid out on the devices.
    shape: of x0, without the batch axis.
    floats: whether images are float32 instead of uint8.
    trajectory: whether the path is returned.
  """

  def draw(denoiser, sampler, sigmas, std, key: Array, start: Array, numbers: Array, asked: tuple[Cond, Any]):
    cond, noise = asked
    key_start, key_path = randomness.split(randomness.fold_in_each(key, numbers))
    noise = randomness.normal(key_start, (numbers.shape[0], *shape)) if noise is None else noise
    x = start + std * noise
    x0, *path, carry = sample(denoiser, sampler, x, sigmas, key=key_path, cond=cond, trajectory=trajectory, carry=True)
    drawn = {"x0": x0}
    if floats:
      drawn["noise"] = noise
    if isinstance(carry, Progress) and not isinstance(sampler, samplers.Recurrent):
      drawn["calls"] = carry.calls + 1  # not for time travel, where each repeat restarts from the same count
    if trajectory:
      scale = jax.lax.rsqrt(1 + sigmas**2).reshape(-1, *([1] * x.ndim))
      drawn["path"] = jnp.moveaxis(path[0] * scale, 1, 0)
    return drawn

  def decode(codec: Codec, x0: Array):
    images = codec.decode(x0)
    return {"images": show(images), "finite": jnp.isfinite(images).all(range(1, images.ndim))}

  def decode_path(codec: Codec, path: Array):
    return jnp.moveaxis(show(jax.lax.map(codec.decode, jnp.moveaxis(path, 1, 0))), 1, 0)

  show = (lambda images: images.astype(jnp.float32)) if floats else to_uint8
  return Programs(*map(layout.map, (draw, decode, decode_path)))


def draw_batches(
  programs: Programs,
  layout: DrawingLayout,
  codecs: tuple[Codec, Codec],
  assemble: Callable[..., tuple],
  asked: PyTree,
  numbers: np.ndarray,
  batch_size: int,
  progress: Callable[[Sequence[int]], Iterable[int]],
  *,
  again: bool,
) -> Drawn:
  """Draws the images with these numbers; each process draws its share of every batch.

  Args:
    programs: the `compiled` functions.
    layout: how arrays are laid out on the devices.
    codecs: that of the images, and that of the path.
    assemble: returns the arguments shared by all images; given a report function, with that for non-finite gradients.
    asked: per-image arguments, arrays [num, ...].
    numbers: int [num], which with the seed determine each image's randomness.
    batch_size: images at a time, rounded up to a multiple of the number of devices.
    progress: wraps the list of batches.
    again: whether to redraw a batch that is not finite with a program that replaces non-finite gradients by zero and
      reports them. Its host callbacks keep that program out of the on-disk cache.

  Raises:
    FloatingPointError: an image is NaN or infinite.
    MemoryError: a device runs out of memory.
  """
  num, count = len(numbers), devices.device_count()
  batch_size = -(-batch_size // count) * count
  batches = []
  with memory.explaining(programs.draw, {"batch_size": batch_size}) as draw:
    shared, (codec, path_codec) = layout.spread(assemble()), layout.spread(codecs)
    for first in progress(range(0, num, batch_size)):
      rows = np.minimum(np.arange(first, first + batch_size), num - 1)[processes.local_slice(batch_size)]
      own = layout.split(jax.tree.map(lambda a, rows=rows: a[rows], (numbers, asked)))
      drawn = draw(*shared, *own)
      decoded = programs.decode(codec, drawn["x0"])
      if again and not layout.join(decoded["finite"]).all():
        drawn = draw(*layout.spread(assemble(warn_nonfinite)), *own)
        decoded = programs.decode(codec, drawn["x0"])
      del drawn["x0"]
      if "path" in drawn:
        drawn["path"] = programs.decode_path(path_codec, drawn["path"])
      batches.append(layout.join(drawn | decoded))
  whole = jax.tree.map(lambda *parts: np.concatenate(parts)[:num], *batches)
  failed = num - whole.pop("finite").sum()
  if failed:
    raise FloatingPointError(
      f"{failed} of {num} images are not finite; try a smaller guidance scale, another sampler or grid, or"
      " an earlier checkpoint."
    )
  if "path" in whole:
    whole["path"] = np.moveaxis(whole["path"], 1, 0)
  return Drawn(**whole)


def put(drawn: Drawn, rows: np.ndarray, anew: Drawn) -> None:
  """Overwrites the images at `rows` with redrawn ones, in place."""
  if drawn.path is not None:
    drawn.path[:, rows] = anew.path
  for old, new in ((drawn.images, anew.images), (drawn.noise, anew.noise), (drawn.calls, anew.calls)):
    if old is not None:
      old[rows] = new


def edit(
  denoiser: Denoiser,
  sigmas: Array,
  known: np.ndarray | None,
  mask: np.ndarray | None,
  strength: float | None,
  shape: tuple[int, ...],
) -> tuple[Denoiser, Array, Array | np.ndarray]:
  """(denoiser, sigmas, start) for editing an image; sampling starts at start + std * noise.

  Args:
    denoiser: the model's.
    sigmas: the whole grid.
    known: [1, ...], the x0 of an image to start from, or None.
    mask: [1, h, w, 1], 1 where it is regenerated, or None.
    strength: the fraction of the steps that are run, or None.
    shape: of x0.

  Raises:
    ValueError: a mask or a strength without an image, or a strength out of range.
  """
  if known is None:
    if mask is not None or strength is not None:
      given = "a mask" if mask is not None else "strength"
      raise ValueError(f"{given} needs an init image; give one, or drop the option.")
    return denoiser, sigmas, np.zeros((1, *shape), np.float32)
  if mask is None:
    return denoiser, editing.shorten(sigmas, 0.5 if strength is None else strength), known
  sigmas = editing.shorten(sigmas, 1.0 if strength is None else strength)
  start = known if strength is not None and strength < 1 else editing.hole(known, mask)
  return editing.Inpaint(denoiser, known, mask), sigmas, start
