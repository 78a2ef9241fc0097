"""Devices and processes: the only file that knows there is more than one.

A step is a pure function with an `axis_name`; here it is mapped over the devices. Arrays on the devices have a leading
[D], one slice for each device of this process.
"""

import functools
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffjax.cluster import last_words
from diffjax.cluster.roll_call import call_the_roll
from diffjax.system.compilation import compiler_options, jit
from diffjax.typing import PyTree

AXIS = "devices"
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
LONGEST = 4096
"""Bytes of what a process may send the others at once."""
STUCK_AFTER = 600
"""Seconds without a finished step, or without a sign of one of them, after which several processes count as stuck."""


def initialize(
  coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None, timeout: int = 300
) -> None:
  """Joins the processes of a run, those that are named, else of a SLURM step, else of a TPU pod; before any other use.

  Args:
    coordinator: "host:port" of process 0, for machines that neither SLURM nor a TPU pod tells of each other.
    num_processes: how many there are.
    process_id: which of them this one is, from 0.
    timeout: seconds to wait for all of them.

  Raises:
    ValueError: if some of the three are missing, or contradict each other.
    OSError: if not all of them come in time; says who is missing, but on a TPU pod, where JAX aborts.
  """
  given: dict[str, Any] = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
  if any(value is not None for value in given.values()):
    _check_processes(given)
    call_the_roll(given["coordinator"], given["num_processes"], given["process_id"], timeout)
    how: dict[str, Any] = {"coordinator_address": coordinator, "num_processes": num_processes, "process_id": process_id}
    how["cluster_detection_method"] = "deactivate"
  elif all(name in os.environ for name in SLURM) and int(os.environ["SLURM_NTASKS"]) > 1:
    from jax._src.clusters.slurm_cluster import SlurmCluster  # what JAX will ask, too

    address = SlurmCluster.get_coordinator_address(timeout, None)
    call_the_roll(address, int(os.environ["SLURM_NTASKS"]), int(os.environ["SLURM_PROCID"]), timeout)
    how = {"cluster_detection_method": "slurm"}
  elif "tpu" in (jax.config.values["jax_platforms"] or ""):  # as JAX sets it on a Cloud TPU machine
    how = {}
  else:
    return
  jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from Python
  try:
    # JAX's own watch, which aborts between half of this and all of it, comes after ours, which says more
    jax.distributed.initialize(initialization_timeout=timeout, heartbeat_timeout_seconds=2 * STUCK_AFTER + 60, **how)
  except ValueError as error:
    if "coordinator_address" not in str(error):  # a TPU that belongs to no pod
      raise
    return
  last_words.listen(STUCK_AFTER)


def _check_processes(given: dict[str, Any]) -> None:
  missing = [f"--{name}" for name, value in given.items() if value is None]
  example = "as in --coordinator=10.0.0.1:1234 --num_processes=4 --process_id=0"
  if missing:
    raise ValueError(f"{' and '.join(missing)} missing: give all of a run's three flags for processes, {example}.")
  coordinator, num_processes, process_id = given.values()
  host, _, port = coordinator.rpartition(":")
  if not (host and port.isdecimal() and 0 < int(port) < 2**16):
    raise ValueError(f"--coordinator={coordinator} is no address; give host and port of process 0, {example}.")
  if num_processes < 1:
    raise ValueError(f"--num_processes={num_processes}, but there must be at least one; count all of them, {example}.")
  if not 0 <= process_id < num_processes:
    raise ValueError(f"--process_id={process_id} must lie in 0..{num_processes - 1} with {num_processes} processes.")


def pmap(fun: Callable, donate_argnums: tuple[int, ...] = ()) -> Callable:
  """Maps `fun` over all devices, each argument along its leading [D]; inside, the axis is named AXIS."""
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


def several() -> bool:
  """Whether the run has other processes than this one."""
  return jax.process_count() > 1


def is_first() -> bool:
  """Whether this is the process that prints, and writes what is written once."""
  return jax.process_index() == 0


def announce(text: str) -> None:
  """Prints in the first process only; the work goes on where nobody reads it, as Ctrl-C ends `| tee` too."""
  if is_first():
    try:
      print(text, flush=True)
    except BrokenPipeError:
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def from_first(fun: Callable[[], Any]) -> Any:
  """What `fun` returns in the first process, where alone it is called while the others wait; else as `from_all`."""
  return from_all(fun if is_first() else lambda: None)[0]


def from_all(fun: Callable[[], Any]) -> list[Any]:
  """What `fun` returns in each process, in the order of the processes; all call it at the same time.

  Args:
    fun: returns something JSON-able and short.

  Raises:
    ValueError: in the other processes, if `fun` failed in one; that one raises its error itself.
    SystemExit: in the others, if one was stopped meanwhile.
  """
  if not several():
    return [fun()]
  value = failure = None
  try:
    value = fun()
  except BaseException as error:  # if a process exits here, the others block in the next collective
    failure = error
  _wait_for_all()
  answer = {"value": value} if failure is None else {"failure": f"{type(failure).__name__}: {failure}"[:300]}
  if isinstance(failure, last_words.Stopped):
    answer = {"exit": failure.code}
  text = np.frombuffer(json.dumps(answer).encode().ljust(LONGEST), np.uint8)
  answers = [json.loads(bytes(row)) for row in multihost_utils.process_allgather(text)]
  if failure is not None:
    raise failure
  for process_id, answer in enumerate(answers):
    if "exit" in answer:
      last_words.hear()
      raise SystemExit(answer["exit"])
    if "failure" in answer:
      for _ in range(4):  # that process gives its reason itself, and for a bug of ours only after it has listened
        last_words.hear()
      raise ValueError(f"process {process_id} has failed: {answer['failure']}")
  return [answer["value"] for answer in answers]


def _wait_for_all() -> None:
  """Waits as long as it takes, while between CPUs a collective gives up after half a minute."""
  from orbax.checkpoint.multihost import get_barrier_sync_fn  # here, for a single process needs none of it

  get_barrier_sync_fn()(key=f"diffjax/{next(_BARRIERS)}", timeout_ms=7 * 24 * 3600 * 1000)


_BARRIERS = itertools.count()
"""Numbers of the barriers, the same in all processes, as each serves once."""


def any_process(flag: Any) -> Any:
  """Whether `flag` is true in any process; all must ask, in the same order.

  Args:
    flag: anything with a truth value.

  Returns:
    Something whose truth value says so: with one process the flag itself, which may still change; with several an array
    that is waited for only when it is asked, so that the devices work on.
  """
  if not several():
    return flag
  return _count()(np.full(jax.local_device_count(), bool(flag), np.int32)).addressable_data(0)


@functools.cache
def _count() -> Callable:
  return jax.pmap(lambda flag: jax.lax.psum(flag, AXIS), axis_name=AXIS)


def how_many(flag: bool) -> int:
  """In how many processes `flag` is true; all must ask, and wait as long as it takes until the last one does."""
  if not several():
    return int(flag)
  _wait_for_all()
  return int(multihost_utils.process_allgather(np.int32(flag)).sum())


def check_batch_size(batch_size: int, accumulate: int = 1) -> None:
  """Raises ValueError unless all devices can share the batch evenly, in `accumulate` parts each."""
  count = jax.device_count()
  if batch_size < 1 or batch_size % (count * accumulate):
    parts = f"{count} device(s)" + (f" x train.accumulate={accumulate}" if accumulate > 1 else "")
    raise ValueError(f"{parts} cannot share a batch of {batch_size} evenly; use a multiple of {count * accumulate}.")


def device_count() -> int:
  """Devices of all processes."""
  return jax.device_count()


def own_part(num: int) -> slice:
  """This process's part of `num` things that all processes share evenly; `unshard` puts the parts together."""
  size = num // jax.process_count()
  return slice(jax.process_index() * size, (jax.process_index() + 1) * size)


@functools.cache
def _sharding() -> NamedSharding:
  return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(AXIS))


def mesh() -> Mesh:
  """All devices in one row, those of a process beside each other."""
  devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
  return Mesh(np.array(devices), (AXIS,))


def from_parts(tree: PyTree, sharding: NamedSharding, axis: int = 0) -> PyTree:
  """Arrays over all processes, from the part [..., b, ...] that each of them holds of `axis`."""

  def join(a):
    shape = (*a.shape[:axis], a.shape[axis] * jax.process_count(), *a.shape[axis + 1 :])
    return jax.make_array_from_process_local_data(sharding, a, shape)

  return jax.tree.map(join, tree)


def from_copies(tree: PyTree, sharding: NamedSharding) -> PyTree:
  """Arrays over all processes, of which each process holds all; numbers stay what they are."""

  def put(a):
    if not hasattr(a, "dtype"):
      return a
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
      return jax.random.wrap_key_data(put(jax.random.key_data(a)))
    a = np.asarray(a)  # device_put would send everything around, to compare it
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
  """Gathers what `shard` split, in every process, as NumPy arrays: [D, ..., B / D, ...] -> [..., B, ...]."""

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
  """Stays `size` items ahead, so that the transfers they have started overlap with computation."""
  items = iter(items)
  queue = list(itertools.islice(items, size))
  while queue:
    yield queue.pop(0)
    queue.extend(itertools.islice(items, 1))
