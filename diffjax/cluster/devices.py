"""The devices of a run: steps mapped over them, and arrays that lie on them.

A step is a pure function with an `axis_name`, which is mapped over the devices here. Arrays on the devices have a
leading axis [D], one slice for each device of this process.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffjax.cluster.processes import several
from diffjax.system.compilation import compiler_options, jit
from diffjax.typing import PyTree

AXIS = "devices"


def pmap(fun: Callable, donate_argnums: tuple[int, ...] = ()) -> Callable:
  """Maps `fun` over all devices, each argument along its leading axis [D], which is named AXIS inside."""
  mapped = jax.pmap(fun, axis_name=AXIS, donate_argnums=donate_argnums)
  # pmap takes no compiler options, so an outer jit passes them; arrays that span processes cannot go through it
  return jit(mapped, donate_argnums=donate_argnums) if compiler_options() and jax.process_count() == 1 else mapped


def mean(tree: PyTree, axis_name: str | None) -> PyTree:
  """Mean over the devices inside a mapped step; the tree itself if `axis_name` is None."""
  return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def gather(tree: PyTree, axis_name: str | None) -> PyTree:
  """Gathers all devices' arrays along the batch inside a mapped step, differentiably: [b, ...] -> [D * b, ...].

  Each device's gradient then includes contributions from all devices' losses, so the `mean` of the gradients is the
  gradient of the mean loss. Returns the tree itself if `axis_name` is None.
  """
  return tree if axis_name is None else jax.tree.map(lambda a: jax.lax.all_gather(a, axis_name, tiled=True), tree)


def check_batch_size(batch_size: int, accumulate: int = 1) -> None:
  """Raises ValueError unless the batch splits evenly among all devices, in `accumulate` parts each."""
  count = jax.device_count()
  if batch_size < 1 or batch_size % (count * accumulate):
    parts = f"{count} device(s)" + (f" x train.accumulate={accumulate}" if accumulate > 1 else "")
    raise ValueError(f"{parts} cannot share a batch of {batch_size} evenly; use a multiple of {count * accumulate}.")


def device_count() -> int:
  """Number of devices of all processes."""
  return jax.device_count()


def platform() -> str:
  """The devices' platform: "cpu", "gpu" or "tpu"."""
  return jax.default_backend()


@functools.cache
def _sharding() -> NamedSharding:
  return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(AXIS))


def mesh() -> Mesh:
  """A 1D mesh of all devices, those of a process adjacent to each other."""
  devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
  return Mesh(np.array(devices), (AXIS,))


def from_parts(tree: PyTree, sharding: NamedSharding, axis: int = 0) -> PyTree:
  """Global arrays over all processes, from each process's part [..., b, ...] along `axis`."""

  def join(a):
    shape = (*a.shape[:axis], a.shape[axis] * jax.process_count(), *a.shape[axis + 1 :])
    return jax.make_array_from_process_local_data(sharding, a, shape)

  return jax.tree.map(join, tree)


def from_copies(tree: PyTree, sharding: NamedSharding) -> PyTree:
  """Global arrays over all processes, from a full copy in each; Python scalars are returned as they are."""

  def put(a):
    if not hasattr(a, "dtype"):
      return a
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
      return jax.random.wrap_key_data(put(jax.random.key_data(a)))
    a = np.asarray(a)  # device_put would send every array to all processes, to compare them
    return jax.make_array_from_callback(a.shape, sharding, lambda index: a[index])

  return jax.tree.map(put, tree)


def whole(tree: PyTree) -> PyTree:
  """NumPy copies of arrays that may be spread over all processes, in every process, one leaf at a time."""

  def gather_leaf(a):
    if isinstance(a, jax.Array) and not (a.is_fully_addressable or a.is_fully_replicated):
      return multihost_utils.process_allgather(a, tiled=True)
    return np.asarray(a)

  return jax.tree.map(gather_leaf, tree)


def replicate(tree: PyTree) -> PyTree:
  """Copies every leaf to each local device, into fresh buffers: [...] -> [D, ...]."""
  return _replicate()(tree)


@functools.cache
def _replicate() -> Callable:
  """One jit for all calls: a new one each time would compile again."""
  stack = lambda a: jnp.broadcast_to(a, (jax.local_device_count(), *jnp.shape(a)))
  return jax.jit(lambda tree: jax.tree.map(stack, tree), out_shardings=_sharding())


def unreplicate(tree: PyTree) -> PyTree:
  """The first device's slice of each leaf, copied to NumPy: safe to keep while the original is donated."""
  return jax.tree.map(lambda a: np.array(a.addressable_data(0))[0], tree)


def shard(batch: PyTree, axis: int = 0) -> PyTree:
  """Splits the batch axis among the local devices and transfers the parts: [..., B, ...] -> [D, ..., B / D, ...]."""
  count = jax.local_device_count()

  def split(a):
    shape = (*a.shape[:axis], count, a.shape[axis] // count, *a.shape[axis + 1 :])
    return jax.device_put(_move_to_front(a.reshape(shape), axis), _sharding())

  return jax.tree.map(split, batch)


def unshard(tree: PyTree, axis: int = 0) -> PyTree:
  """Gathers arrays split by `shard` into NumPy arrays in every process: [D, ..., B / D, ...] -> [..., B, ...]."""

  def join(a):
    a = np.asarray(a)
    if several():
      a = np.concatenate(multihost_utils.process_allgather(a))
    a = np.moveaxis(a, 0, axis)
    return a.reshape(*a.shape[:axis], -1, *a.shape[axis + 2 :])

  return jax.tree.map(join, tree)


def _move_to_front(a, axis):
  return jnp.moveaxis(a, axis, 0) if isinstance(a, jax.Array) else np.moveaxis(a, axis, 0)


def prefetch(items: Iterable[PyTree], size: int = 2) -> Iterator[PyTree]:
  """Stays `size` items ahead, so that the transfers they start overlap with computation."""
  items = iter(items)
  queue = list(itertools.islice(items, size))
  while queue:
    yield queue.pop(0)
    queue.extend(itertools.islice(items, 1))
