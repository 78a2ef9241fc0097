"""Where the arrays of a run live, in training and sampling: replicated on every device, or sharded among them."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from diffjax.cluster import devices
from diffjax.cluster.processes import several
from diffjax.system.compilation import jit
from diffjax.typing import PyTree

MIN_SHARDED_SIZE = 1024
"""Minimum number of elements in a leaf that is sharded; smaller ones are replicated."""


class Replicated:
  """Every device holds the whole state and processes its part of the batch: `pmap`, for models that fit one device.

  Args:
    shapes: shapes of the state, as `jax.eval_shape` returns them.
  """

  def __init__(self, shapes: PyTree):
    self.target = shapes
    """Target for restoring a checkpoint: NumPy arrays."""

  def initial(self, make: Callable[[], PyTree]) -> PyTree:
    """The initial state, as `make` returns it."""
    return jit(make, once=True)()

  def place(self, state: PyTree) -> PyTree:
    """Places a state, initial or restored, as the compiled steps take it."""
    return devices.replicate(state)

  def replicate(self, tree: PyTree) -> PyTree:
    """Copies the arrays to every device."""
    return devices.replicate(tree)

  def share(self, batches: PyTree) -> PyTree:
    """Splits this process's part of batches [K, b, ...] among its devices."""
    return devices.shard(batches, axis=1)

  def abstract(self, state: PyTree, everywhere: PyTree, batches: PyTree) -> tuple[PyTree, PyTree, PyTree]:
    """Shapes that `place`, `replicate` and `share` return, given those of a state, any tree, a device's batches."""
    count = jax.local_device_count()
    stack = lambda a: jax.ShapeDtypeStruct((count, *a.shape), a.dtype)
    return jax.tree.map(stack, (state, everywhere, batches))

  def compile(self, step: Callable[..., Any]) -> Callable[..., tuple[PyTree, PyTree]]:
    """Compiles a step with an `axis_name` to (state, ...) -> (state, metrics) on all devices; donates the state."""
    return devices.pmap(functools.partial(step, axis_name=devices.AXIS), donate_argnums=(0,))

  def evaluate(self, fun: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Compiles a function of a snapshot's arrays and NumPy arrays."""
    return jit(fun)

  def fetch(self, metrics: PyTree) -> PyTree:
    """Replicated values as NumPy arrays."""
    return devices.unreplicate(metrics)

  def snapshot(self, state: PyTree) -> PyTree:
    """The state to save and evaluate before the next step."""
    return devices.unreplicate(state)

  # Sampling needs no training state

  @staticmethod
  def spread(tree: PyTree) -> PyTree:
    """Places a model, and whatever else all images share, for functions compiled by `map`."""
    return devices.replicate(tree)

  @staticmethod
  def split(batch: PyTree) -> PyTree:
    """Splits this process's part of a batch [b, ...] for functions compiled by `map`."""
    return devices.shard(batch)

  @staticmethod
  def map(fun: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Compiles a function of arrays from `spread` and `split`."""
    return devices.pmap(fun)

  @staticmethod
  def join(tree: PyTree) -> PyTree:
    """NumPy copies, in every process, of the results of `map`, with the batch axis first."""
    return devices.unshard(tree)


class Sharded:
  """The state is sharded among the devices, like the batch, and gathered where it is used: `fsdp` (Zhao et al. 2023).

  Each leaf is split along the first axis divisible by the number of devices; small ones are replicated. XLA inserts
  the communication. Args: as `Replicated`.
  """

  def __init__(self, shapes: PyTree):
    self._mesh = devices.mesh()
    self._whole = NamedSharding(self._mesh, PartitionSpec())
    self._shardings = self._split(shapes)
    self.target = jax.tree.map(
      lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), shapes, self._shardings
    )

  def initial(self, make):
    shardings = self._split(jax.eval_shape(make))
    return jit(make, once=True, out_shardings=shardings)()  # no device ever holds the whole state

  def _split(self, shapes):
    return jax.tree.map(lambda a: NamedSharding(self._mesh, spec(a.shape, self._mesh.size)), shapes)

  def place(self, state):
    return self.spread(state)  # what is frozen comes from the host

  def replicate(self, tree):
    return devices.from_copies(tree, self._whole)

  def share(self, batches):
    sharding = NamedSharding(self._mesh, PartitionSpec(None, devices.AXIS))
    return devices.from_parts(batches, sharding, axis=1)

  def abstract(self, state, everywhere, batches):
    del state  # `target` already has its shapes and shardings
    whole = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=self._whole)
    parts = NamedSharding(self._mesh, PartitionSpec(None, devices.AXIS))
    grow = lambda a: (a.shape[0], a.shape[1] * self._mesh.size, *a.shape[2:])
    share = lambda a: jax.ShapeDtypeStruct(grow(a), a.dtype, sharding=parts)
    return self.target, jax.tree.map(whole, everywhere), jax.tree.map(share, batches)

  def compile(self, step):
    step = functools.partial(step, axis_name=None)
    return jit(step, donate_argnums=(0,), out_shardings=(self._shardings, self._whole))

  def evaluate(self, fun):
    return jit(fun, out_shardings=self._whole)

  def fetch(self, metrics):
    return jax.tree.map(np.asarray, metrics)

  def snapshot(self, state):
    return state

  @staticmethod
  def spread(tree):
    mesh = devices.mesh()

    def put(a):
      if isinstance(a, jax.Array) and a.sharding.device_set == set(mesh.devices.flat):
        return a  # already sharded, in a training state
      return devices.from_copies(a, NamedSharding(mesh, spec(np.shape(a), mesh.size)))

    return jax.tree.map(put, tree)

  @staticmethod
  def split(batch):
    return devices.from_parts(batch, NamedSharding(devices.mesh(), PartitionSpec(devices.AXIS)))

  @staticmethod
  def map(fun):
    return jit(fun)

  @staticmethod
  def join(tree):
    return devices.whole(tree)


class Whole:
  """For sampling only: every device holds the whole model, placed there once, and draws its part of the batch."""

  @staticmethod
  def spread(tree):
    whole = NamedSharding(devices.mesh(), PartitionSpec())

    def put(a):
      if isinstance(a, jax.Array) and a.is_fully_addressable and not several():
        return jax.device_put(a, whole)  # no copy where it is already
      return devices.from_copies(a, whole)

    return jax.tree.map(put, tree)

  split = staticmethod(Sharded.split)
  map = staticmethod(Sharded.map)
  join = staticmethod(Sharded.join)


Layout = Replicated | Sharded
DrawingLayout = type[Replicated] | type[Sharded] | type[Whole]
"""A class with the static methods `spread`, `split`, `map` and `join`."""
LAYOUTS: dict[str, type[Layout]] = {"pmap": Replicated, "fsdp": Sharded}
"""By the value of `parallel` in a config."""


def spec(shape: tuple[int, ...], count: int) -> PartitionSpec:
  """The PartitionSpec of an array split among `count` devices.

  >>> tuple(spec((3, 3, 64, 128), 8))
  (None, None, 'devices')
  """
  axes = [axis for axis, size in enumerate(shape) if size % count == 0]
  if not axes or math.prod(shape) < MIN_SHARDED_SIZE:
    return PartitionSpec()
  return PartitionSpec(*[None] * axes[0], devices.AXIS)
