"""Where the arrays of a run live, in training and drawing: whole on every device, or shared among all of them."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from diffjax.cluster import devices
from diffjax.system.compilation import jit
from diffjax.typing import PyTree

SMALLEST = 1024
"""Numbers in a leaf that is worth sharing; smaller ones lie whole on every device."""


class Replicated:
  """Every device holds the whole state and works on its part of the batch: `pmap`, for models that fit one device.

  Args:
    shapes: the state's, as `jax.eval_shape` gives them.
  """

  def __init__(self, shapes: PyTree):
    self.target = shapes
    """What a checkpoint is restored as: NumPy arrays."""

  def initial(self, make: Callable[[], PyTree]) -> PyTree:
    """The state that `make` makes."""
    return jit(make, once=True)()

  def place(self, state: PyTree) -> PyTree:
    """A state, initial or restored, as the compiled steps take it."""
    return devices.replicate(state)

  def replicate(self, tree: PyTree) -> PyTree:
    """The same arrays, whole on every device."""
    return devices.replicate(tree)

  def share(self, batches: PyTree) -> PyTree:
    """This process's part of batches [K, b, ...], split among its devices."""
    return devices.shard(batches, axis=1)

  def abstract(self, state: PyTree, everywhere: PyTree, batches: PyTree) -> tuple[PyTree, PyTree, PyTree]:
    """Shapes of what `place`, `replicate` and `share` give, for those of a state, of anything, of a device's part."""
    count = jax.local_device_count()
    stack = lambda a: jax.ShapeDtypeStruct((count, *a.shape), a.dtype)
    return jax.tree.map(stack, (state, everywhere, batches))

  def compile(self, step: Callable[..., Any]) -> Callable[..., tuple[PyTree, PyTree]]:
    """(state, ...) -> (state, metrics) on all devices, of a step with an `axis_name`; consumes the state it takes."""
    return devices.pmap(functools.partial(step, axis_name=devices.AXIS), donate_argnums=(0,))

  def evaluate(self, fun: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Compiles a function of a snapshot's arrays and of NumPy arrays."""
    return jit(fun)

  def fetch(self, metrics: PyTree) -> PyTree:
    """What all devices hold alike, as NumPy arrays."""
    return devices.unreplicate(metrics)

  def snapshot(self, state: PyTree) -> PyTree:
    """The state to save and to look at before the next step."""
    return devices.unreplicate(state)

  # To draw with a model takes no state

  @staticmethod
  def spread(tree: PyTree) -> PyTree:
    """A model, and whatever else all pictures share, for what `map` compiles."""
    return devices.replicate(tree)

  @staticmethod
  def split(batch: PyTree) -> PyTree:
    """This process's part of a batch [b, ...], for what `map` compiles."""
    return devices.shard(batch)

  @staticmethod
  def map(fun: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Compiles a function of what `spread` and `split` give."""
    return devices.pmap(fun)

  @staticmethod
  def join(tree: PyTree) -> PyTree:
    """NumPy copies, in every process, of what `map` returns, with the batch in front."""
    return devices.unshard(tree)


class Sharded:
  """The state is shared among the devices, as the batch is, and gathered where it is used: `fsdp` (Zhao et al. 2023).

  Each leaf is split along the first axis that the number of devices divides; small ones are whole everywhere. XLA
  places the communication. Args: as `Replicated`.
  """

  def __init__(self, shapes: PyTree):
    self._mesh = devices.mesh()
    self._whole = NamedSharding(self._mesh, PartitionSpec())
    self._shardings = jax.tree.map(lambda a: NamedSharding(self._mesh, spec(a.shape, self._mesh.size)), shapes)
    self.target = jax.tree.map(
      lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), shapes, self._shardings
    )

  def initial(self, make):
    return jit(make, once=True, out_shardings=self._shardings)()  # no device ever holds all of it

  def place(self, state):
    return state

  def replicate(self, tree):
    return devices.from_copies(tree, self._whole)

  def share(self, batches):
    sharding = NamedSharding(self._mesh, PartitionSpec(None, devices.AXIS))
    return devices.from_parts(batches, sharding, axis=1)

  def abstract(self, state, everywhere, batches):
    del state  # has its shapes and shardings from the start
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
      if isinstance(a, jax.Array) and len(a.sharding.device_set) == mesh.size > 1:
        return a  # a state's own
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


Layout = Replicated | Sharded
LAYOUTS: dict[str, type[Layout]] = {"pmap": Replicated, "fsdp": Sharded}
"""By the names that `parallel` has in a config."""


def spec(shape: tuple[int, ...], count: int) -> PartitionSpec:
  """How an array is split among `count` devices.

  >>> tuple(spec((3, 3, 64, 128), 8))
  (None, None, 'devices')
  """
  axes = [axis for axis, size in enumerate(shape) if size % count == 0]
  if not axes or math.prod(shape) < SMALLEST:
    return PartitionSpec()
  return PartitionSpec(*[None] * axes[0], devices.AXIS)
