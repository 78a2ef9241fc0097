"""Describes a training run before anything is computed or written."""

import functools
import math
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp

from diffjax import data, from_config
from diffjax.cluster import devices, processes
from diffjax.cluster.layouts import Layout
from diffjax.codecs import Latents
from diffjax.runs.autoencoder import stored_moments
from diffjax.runs.folder import load_data
from diffjax.system import memory, paths
from diffjax.system.memory import text, tree_bytes
from diffjax.training.objectives.denoising import Frozen
from diffjax.training.step import TrainStep, several_steps
from diffjax.typing import PyTree

UNPREPARED = "not prepared yet; the run will do this first"


def dry_run(config, workdir: pathlib.Path, train_step: TrainStep, layout: Layout, frozen: PyTree = None) -> str:
  """Describes devices, batch, parameters, memory, cost, data and folders; compiles one step but runs nothing.

  Args:
    config: a run's ConfigDict.
    workdir: the run's folder, which is not touched.
    train_step: the training step.
    layout: placement of its state on the devices.
    frozen: what the run stands on, as `load_frozen` returns it.
  """
  spec, num_processes, num_devices = config.train, processes.process()["process_count"], devices.device_count()
  state = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), layout.target)
  source = _data(config)
  labelled, buckets = source.num_classes > 0 if source else None, config.data.get("buckets", ())
  batch = examples(config, spec.batch_size // num_devices, labelled, frozen)
  rows = {
    "mesh": f"{_count(num_processes, 'process', 'es')} x "
    + _count(num_devices // num_processes, f"{devices.platform()} device"),
    "batch": f"{spec.batch_size} a step, {spec.batch_size // num_devices} a device"
    + (f" in {spec.accumulate} parts" if spec.accumulate > 1 else ""),
    **_memory(
      train_step, state, layout, batch, spec.steps_per_call, source if config.data.in_memory and not buckets else None
    ),
    "FLOPs": _flops(train_step, state, batch, num_devices),
    "data": f"{len(source):,} images of {_sizes(source)}" if source else UNPREPARED,
    "folder": str(workdir),
    "checkpoints": _checkpoints(workdir, tree_bytes(state.trained), spec.keep_checkpoints),
  }
  return "\n".join(f"{name:<15} {value}" for name, value in rows.items())


def examples(
  config, batch_size: int, labelled: bool | None = None, frozen: PyTree = None
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a batch of examples, with labels if `labelled` (None: if the model uses them); `frozen` as `dry_run`.

  Of several sizes, the largest.
  """
  labelled = from_config.num_classes(config) > 0 if labelled is None else labelled
  sizes = config.data.get("buckets", ()) or [from_config.image_size(config)]
  shape = (batch_size, *max(sizes, key=math.prod), config.data.channels)
  batch: dict[str, Any] = {"image": jax.ShapeDtypeStruct(shape, jnp.uint8)}
  names = ("label", "index") if labelled else ("index",)
  batch |= {name: jax.ShapeDtypeStruct((batch_size,), jnp.int32) for name in names}
  if isinstance(frozen, Frozen):
    if frozen.conditioner.captions is None:
      length = frozen.conditioner.towers[0].tokenizer.length
      batch["tokens"] = jax.ShapeDtypeStruct((batch_size, length), jnp.int32)
    codec = frozen.codec
    if config.data.in_memory and isinstance(codec, Latents):
      batch["moments"] = jax.eval_shape(lambda images: stored_moments(codec, images), batch.pop("image"))
  return batch


def _sizes(source: data.Source) -> str:
  return "x".join(map(str, source.shape)) if source.groups is None else f"{len(set(source.groups))} sizes"


def _data(config) -> data.Source | None:
  try:
    return load_data(config, "train", prepare=False)
  except FileNotFoundError:
    return None


def _memory(train_step, state, layout, batch, steps_per_call, resident: data.Source | None) -> dict[str, str]:
  own = layout.target
  gradients = _own_bytes(own.params)
  rows: dict[str, Any] = {"parameters": gradients, "gradients": gradients}
  rows |= {"optimiser": _own_bytes(own.opt_state), "averages": _own_bytes(own.ema)}
  if frozen := _own_bytes(own.frozen):
    rows["frozen"] = frozen
  whole = {} if resident is None else {n: _of_length(len(resident), a) for n, a in batch.items() if n != "index"}
  if whole:
    batch = {"id": batch["index"], "index": batch["index"]}
    rows["data set"] = tree_bytes(whole)
  batches = jax.tree.map(lambda a: _stack(steps_per_call, a), batch)
  needs = memory.needs(_lower(train_step, state, layout, whole, batches).compile())
  if needs is None:
    rows["activations"], total = "unknown: this backend has no memory analysis", sum(rows.values())
  else:
    rows["activations"], total = max(needs.temporaries - gradients, 0), needs.total
  table = {name: f"{text(n)}, {n:,} bytes" if isinstance(n, int) else n for name, n in rows.items()}
  num_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  table["parameters"] = f"{num_params:,} in {table['parameters']}"
  device = memory.device_bytes()
  return table | {"each device": text(total) + (f" of {text(device)}" if device else "") + ", estimated"}


def _own_bytes(tree):
  """Bytes of a device's share of all leaves."""
  share = lambda leaf: leaf.sharding.shard_shape(leaf.shape) if getattr(leaf, "sharding", None) else leaf.shape
  return sum(math.prod(share(leaf)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _lower(train_step, state, layout, resident, batches):
  """Lowers the program that training runs, on this process's devices."""
  everywhere = resident, jax.ShapeDtypeStruct((), jnp.int32), jax.eval_shape(lambda: jax.random.key(0))
  state, (resident, num, key), batches = layout.abstract(state, everywhere, batches)
  return layout.compile(functools.partial(several_steps, train_step)).lower(state, resident, batches, num, key)


def _flops(train_step, state, batch, num_devices: int) -> str:
  # Without the program's loops, whose bodies the analysis counts only once
  step = train_step.replace(accumulate=1)
  jitted = jax.jit(lambda *arguments: step(*arguments))  # the step itself, which may hold arrays, has no hash
  lowered = jitted.lower(state, batch, jax.eval_shape(lambda: jax.random.key(0)))
  each = (lowered.cost_analysis() or {}).get("flops")
  if not each:
    return "unknown: this backend has no cost analysis"
  return f"{each * num_devices / 1e9:.4g} G a step, {each / 1e9:.4g} G a device"


def _checkpoints(workdir: pathlib.Path, num_bytes: int, keep: int) -> str:
  kept = f"{keep} and the best, {text(num_bytes)} each"
  if paths.is_remote(workdir):
    return kept
  there = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
  return f"{kept}; {text(shutil.disk_usage(there).free)} are free"


def _of_length(num: int, a: PyTree) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct((num, *a.shape[1:]), a.dtype)


def _stack(num: int, a: PyTree) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct((num, *a.shape), a.dtype)


def _count(num: int, noun: str, plural: str = "s") -> str:
  return f"{num} {noun}{'' if num == 1 else plural}"
