"""The trajectory from noise to pictures as one compiled program, batch by batch over all devices."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import editing, randomness, samplers
from diffjax.cluster import devices, processes
from diffjax.cluster.layouts import Layout
from diffjax.codecs import to_uint8
from diffjax.guidance.energy import warn_nonfinite
from diffjax.samplers.adaptive import Progress
from diffjax.sampling import sample
from diffjax.system import memory
from diffjax.typing import Array, Cond, Denoiser, PyTree


class Drawn(NamedTuple):
  """Drawn pictures and accompanying data.

  Attributes:
    images: uint8 [num, H, W, C], or float32 in about [-1, 1] on request.
    path: on request, the trajectory [steps + 1, num, H, W, C] in the dtype of images, scaled to unit variance.
    noise: with floats, the standard normal noise [num, ...] that the pictures started from.
    calls: int [num], network calls per picture, for samplers that count them.
  """

  images: np.ndarray
  path: np.ndarray | None = None
  noise: np.ndarray | None = None
  calls: np.ndarray | None = None


@functools.cache
def compiled_draw(layout: type[Layout], shape: tuple[int, ...], floats: bool, trajectory: bool) -> Callable:
  """The compiled function (denoiser, sampler, codec, sigmas, key, start, numbers [b], (cond, noise)) -> a dict.

  Its entries are those of `Drawn` and "finite" [b]; all have the batch axis first, the path too.
  """

  def draw(denoiser, sampler, codec, sigmas, key: Array, start: Array, numbers: Array, asked: tuple[Cond, Any]):
    cond, noise = asked
    key_start, key_path = randomness.split(randomness.fold_in_each(key, numbers))
    noise = randomness.normal(key_start, (numbers.shape[0], *shape)) if noise is None else noise
    x = start + sigmas[0] * noise
    x0, *path, carry = sample(denoiser, sampler, x, sigmas, key=key_path, cond=cond, trajectory=trajectory, carry=True)
    images = codec.decode(x0)
    drawn = {"images": show(images), "finite": jnp.isfinite(images).all(range(1, images.ndim))}
    if floats:
      drawn["noise"] = noise
    if isinstance(carry, Progress) and not isinstance(sampler, samplers.Recurrent):
      drawn["calls"] = carry.calls + 1  # not for time travel, where each repeat restarts from the same count
    if trajectory:
      scale = jax.lax.rsqrt(1 + sigmas**2).reshape(-1, *([1] * x.ndim))
      drawn["path"] = jnp.moveaxis(show(jax.lax.map(codec.decode, path[0] * scale)), 1, 0)
    return drawn

  show = (lambda images: images.astype(jnp.float32)) if floats else to_uint8
  return layout.map(draw)


def draw_batches(
  program: Callable,
  layout: type[Layout],
  assemble: Callable[..., tuple],
  asked: PyTree,
  numbers: np.ndarray,
  batch_size: int,
  progress: Callable[[Sequence[int]], Iterable[int]],
  *,
  again: bool,
) -> Drawn:
  """Draws the pictures with these numbers by a `compiled_draw`; each process draws its share of every batch.

  Args:
    program: the compiled function.
    layout: how arrays are laid out on the devices.
    assemble: returns the arguments shared by all pictures; given a report function, with that for non-finite gradients.
    asked: per-picture arguments, arrays [num, ...].
    numbers: int [num], which with the seed determine each picture's randomness.
    batch_size: pictures at a time, rounded up to a multiple of the number of devices.
    progress: wraps the list of batches.
    again: whether to redraw a batch that is not finite with a program that replaces non-finite gradients by zero and
      reports them. Its host callbacks keep that program out of the on-disk cache.

  Raises:
    FloatingPointError: a picture is NaN or infinite.
    MemoryError: a device runs out of memory.
  """
  num, count = len(numbers), devices.device_count()
  batch_size = -(-batch_size // count) * count
  batches = []
  with memory.explaining(program, {"batch_size": batch_size}) as program:
    shared = layout.spread(assemble())
    for first in progress(range(0, num, batch_size)):
      rows = np.minimum(np.arange(first, first + batch_size), num - 1)[processes.local_slice(batch_size)]
      own = layout.split(jax.tree.map(lambda a, rows=rows: a[rows], (numbers, asked)))
      drawn = program(*shared, *own)
      if again and not layout.join(drawn["finite"]).all():
        drawn = program(*layout.spread(assemble(warn_nonfinite)), *own)
      batches.append(layout.join(drawn))
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
  """Overwrites the pictures at `rows` with redrawn ones, in place."""
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
  """(denoiser, sigmas, start) for editing a picture; sampling starts at start + sigmas[0] * noise.

  Args:
    denoiser: the model's.
    sigmas: the whole grid.
    known: [1, ...], the x0 of a picture to start from, or None.
    mask: [1, h, w, 1], 1 where it is regenerated, or None.
    strength: the fraction of the steps that are run, or None.
    shape: of x0.

  Raises:
    ValueError: a mask or a strength without a picture, or a strength out of range.
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
