"""Devices and processes: the only file that knows there is more than one.

A step is a pure function with an `axis_name`; here it is mapped over the local devices. Arrays on the devices have a
leading [D], one slice a device.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffjax.compilation import compiler_options, jit
from diffjax.typing import PyTree

AXIS = "devices"
STUCK_AFTER = 600
"""Seconds without a finished step after which a run of several processes counts as stuck."""


def pmap(fun: Callable, donate_argnums: tuple[int, ...] = ()) -> Callable:
  """Maps `fun` over the local devices, each argument along its leading [D]; inside, the axis is named AXIS."""
  mapped = jax.pmap(fun, axis_name=AXIS, donate_argnums=donate_argnums)
  # pmap takes no compiler options, an outer jit hands them in; arrays that span processes must not pass through it
  return jit(mapped, donate_argnums=donate_argnums) if compiler_options() and jax.process_count() == 1 else mapped


def mean(tree: PyTree, axis_name: str | None) -> PyTree:
  """Mean over the devices inside a mapped step; the tree itself where there is no axis."""
  return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def gather(tree: PyTree, axis_name: str | None) -> PyTree:
  """What all devices hold, joined along the batch, inside a mapped step: [b, ...] -> [D * b, ...], with its gradient.

  The gradient of each device's own loss then holds the losses of all: the `mean` of the devices' gradients is that of
  the mean loss. The tree itself where there is no axis.
  """
  return tree if axis_name is None else jax.tree.map(lambda a: jax.lax.all_gather(a, axis_name, tiled=True), tree)


def process() -> dict[str, int]:
  """{"process_index", "process_count"}, as the data pipeline takes them."""
  return {"process_index": jax.process_index(), "process_count": jax.process_count()}


def any_process(flag: Any) -> Any:
  """Whether `flag` is true in any process; all must ask, in the same order.

  Args:
    flag: anything with a truth value.

  Returns:
    Something whose truth value says so: with one process the flag itself, which may still change; with several an array
    that is waited for only when it is asked, so that the devices work on.
  """
  if jax.process_count() == 1:
    return flag
  return _count()(np.full(jax.local_device_count(), bool(flag), np.int32)).addressable_data(0)


@functools.cache
def _count() -> Callable:
  return jax.pmap(lambda flag: jax.lax.psum(flag, AXIS), axis_name=AXIS)


def check_batch_size(batch_size: int, accumulate: int = 1) -> None:
  """Raises ValueError unless all devices can share the batch evenly, in `accumulate` parts each."""
  count = jax.device_count()
  if batch_size < 1 or batch_size % (count * accumulate):
    parts = f"{count} device(s)" + (f" x train.accumulate={accumulate}" if accumulate > 1 else "")
    raise ValueError(f"{parts} cannot share a batch of {batch_size} evenly; use a multiple of {count * accumulate}.")


def local_device_count() -> int:
  """Devices of this process."""
  return jax.local_device_count()


@functools.cache
def _sharding() -> NamedSharding:
  return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(AXIS))


def replicate(tree: PyTree) -> PyTree:
  """Copies every leaf to each local device, into fresh buffers: [...] -> [D, ...]."""
  return _replicate()(tree)


@functools.cache
def _replicate() -> Callable:
  """One jit for all calls: a fresh one each time would compile again."""
  stack = lambda a: jnp.broadcast_to(a, (jax.local_device_count(), *jnp.shape(a)))
  return jax.jit(lambda tree: jax.tree.map(stack, tree), out_shardings=_sharding())


def unreplicate(tree: PyTree) -> PyTree:
  """The first device's slice of each leaf, copied to NumPy: safe to keep while the original is donated."""
  return jax.tree.map(lambda a: np.array(a.addressable_data(0))[0], tree)


def shard(batch: PyTree, axis: int = 0) -> PyTree:
  """Splits each batch axis among the local devices and sends the parts there: [..., B, ...] -> [D, ..., B / D, ...]."""
  count = jax.local_device_count()

  def split(a):
    shape = (*a.shape[:axis], count, a.shape[axis] // count, *a.shape[axis + 1 :])
    return jax.device_put(_move_to_front(a.reshape(shape), axis), _sharding())

  return jax.tree.map(split, batch)


def unshard(tree: PyTree, axis: int = 0) -> PyTree:
  """Gathers what `shard` split, as NumPy arrays: [D, ..., B / D, ...] -> [..., B, ...]."""

  def join(a):
    a = np.moveaxis(np.asarray(a), 0, axis)
    return a.reshape(*a.shape[:axis], -1, *a.shape[axis + 2 :])

  return jax.tree.map(join, tree)


def _move_to_front(a, axis):
  return jnp.moveaxis(a, axis, 0) if isinstance(a, jax.Array) else np.moveaxis(a, axis, 0)


def prefetch(items: Iterable[PyTree], size: int = 2) -> Iterator[PyTree]:
  """Stays `size` items ahead, so that the transfers they have started overlap with computation."""
  items = iter(items)
  queue = list(islice(items, size))
  while queue:
    yield queue.pop(0)
    queue.extend(islice(items, 1))
