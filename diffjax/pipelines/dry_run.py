"""The memory that drawing will take, from the compiled programs, before any weight is read."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.checks import check_integer
from diffjax.cluster import devices
from diffjax.cluster.layouts import Whole
from diffjax.conditioning import Text, TextTower
from diffjax.pipelines.drawing import compiled
from diffjax.pipelines.pipeline import Pipeline
from diffjax.system import memory
from diffjax.tiling import Tiled, fitting
from diffjax.typing import Cond, PyTree

PARTS = ("denoiser", "codec", "conditioner")
"""The fields of a pipeline that hold arrays."""


def dry_run(
  pipeline: Pipeline,
  num: int,
  *,
  steps: int | None = None,
  sampler: str | None = None,
  grid: str | None = None,
  size: tuple[int, int] | None = None,
  guidance_scale: float | None = None,
  labels: bool = False,
  batch_size: int | None = None,
) -> dict[str, int | str]:
  """Bytes of the weights, and of each program's intermediate values and results, on each device; arguments as `draw`.

  `labels` tells whether any are asked for. Compiles the programs but runs none; parameters may be shapes alone, as
  `pretrained.unread` gives them. Each device is taken to hold the whole model: "each device" is what all weights and
  the largest program take together.

  Raises:
    ValueError: as `Pipeline.draw`.
  """
  check_integer(1, num=num, **({} if batch_size is None else {"batch_size": batch_size}))
  pipeline = dataclasses.replace(pipeline, **{name: _shapes(getattr(pipeline, name)) for name in PARTS})
  sigmas, image_shape, shape = pipeline.shapes(steps, grid, size)
  batch = -(-min(batch_size or pipeline.defaults.batch_size, num) // devices.device_count())
  cond, null_cond = _conds(pipeline, batch, image_shape[:2], shape, labels)
  guided = cond is not None and null_cond is not None
  scale = pipeline.defaults.guidance_scale if guidance_scale is None else guidance_scale
  denoiser = pipeline.defaults.guided(pipeline.denoiser, null_cond, scale if guided else None)
  method = pipeline.defaults.sampler(sampler, len(sigmas) - 1)
  programs = compiled(Whole, shape, floats=False, trajectory=False)
  codec = fitting(pipeline.codec, shape, memory.device_bytes())
  start, numbers = jax.ShapeDtypeStruct((1, *shape), jnp.float32), jax.ShapeDtypeStruct((batch,), jnp.int32)
  std, x0 = pipeline.defaults.start_std(sigmas[0]), jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
  lowered = {
    "denoising": programs.draw.lower(denoiser, method, sigmas, std, jax.random.key(0), start, numbers, (cond, None)),
    "decoding": programs.decode.lower(codec, x0),
  }
  weights = {"text encoder": pipeline.conditioner} if isinstance(pipeline.conditioner, Text) else {}
  weights |= {"network": pipeline.denoiser, "autoencoder": pipeline.codec}
  rows: dict[str, int | str] = {"images": f"{batch} at a time of {' x '.join(map(str, image_shape[:2]))} pixels"}
  rows |= {name: memory.tree_bytes(part) for name, part in weights.items() if jax.tree.leaves(part)}
  largest, known = 0, memory.device_bytes()
  for name, program in lowered.items():
    needs = memory.needs(program.compile())
    if needs is None:
      return rows | {name: "unknown: this backend has no memory analysis"}
    used = needs.temporaries + needs.outputs
    rows[name], largest = used, max(largest, used)
  if isinstance(codec, Tiled):
    rows["tiles"] = f"decoded in tiles of {codec.tile * codec.downscaling} pixels, as a whole image would take too much"
  rows["each device"] = sum(map(memory.tree_bytes, weights.values())) + largest
  return rows | ({} if known is None else {"available": known})


def text(rows: dict[str, int | str]) -> str:
  """The rows of `dry_run` as lines to read."""
  return "\n".join(f"{name:<15} {memory.text(n) if isinstance(n, int) else n}" for name, n in rows.items())


def _shapes(tree: PyTree) -> PyTree:
  return jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), tree)


def _conds(pipeline, batch, size, shape, labels) -> tuple[Cond, Cond]:
  """The shapes of cond and null cond, of prompts of one section."""
  conditioner = pipeline.conditioner
  if not isinstance(conditioner, Text):
    cond, null_cond = conditioner.conds(batch, size, **({"labels": np.zeros(batch, int)} if labels else {}))
    return _shapes(cond), null_cond
  if labels:
    raise ValueError("this model draws from text, not by labels; omit that.")
  one = {"context": [], "pooled": None}
  for tower in conditioner.towers:
    tokens = jax.ShapeDtypeStruct((1, tower.tokenizer.length), jnp.int32)
    hidden, one["pooled"] = jax.eval_shape(TextTower.states, dataclasses.replace(tower, tokenizer=None), tokens)
    one["context"].append(hidden)
  length, width = one["context"][0].shape[1], sum(hidden.shape[2] for hidden in one["context"])
  shapes = {"context": (length, width)}
  if conditioner.pooled:
    shapes |= {"pooled": one["pooled"].shape[1:], "sizes": (6 if conditioner.aesthetic is None else 5,)}
  if pipeline.inpaints:
    shapes["concat"] = (*shape[:2], shape[2] + 1)
  of = lambda *leading: {n: jax.ShapeDtypeStruct((*leading, *own), jnp.float32) for n, own in shapes.items()}
  return of(batch), of()
