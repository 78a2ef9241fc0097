"""The processes of a run: how they find each other, agree, and print once."""

import functools
import itertools
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from diffjax.cluster import exit_reasons
from diffjax.cluster.startup import wait_for_all

SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
MAX_BYTES = 4096
"""Maximum bytes of one message from a process to the others."""
STUCK_AFTER = 600
"""Seconds without a finished step, or without a heartbeat from one process, after which a run counts as stuck."""


def initialize(
  coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None, timeout: int = 300
) -> None:
  """Joins the processes given here, else those of a SLURM step or TPU pod; call before any other use of JAX.

  Args:
    coordinator: "host:port" of process 0, for machines outside SLURM and TPU pods.
    num_processes: number of processes.
    process_id: index of this process, from 0.
    timeout: seconds to wait for all of them.

  Raises:
    ValueError: if some of the three are missing, or contradict each other.
    OSError: if not all processes connect in time; names the missing ones. On a TPU pod JAX aborts instead.
  """
  given: dict[str, Any] = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
  if any(value is not None for value in given.values()):
    _check_processes(given)
    wait_for_all(given["coordinator"], given["num_processes"], given["process_id"], timeout)
    how: dict[str, Any] = {"coordinator_address": coordinator, "num_processes": num_processes, "process_id": process_id}
    how["cluster_detection_method"] = "deactivate"
  elif all(name in os.environ for name in SLURM) and int(os.environ["SLURM_NTASKS"]) > 1:
    from jax._src.clusters.slurm_cluster import SlurmCluster  # what JAX uses too

    address = SlurmCluster.get_coordinator_address(timeout, None)
    wait_for_all(address, int(os.environ["SLURM_NTASKS"]), int(os.environ["SLURM_PROCID"]), timeout)
    how = {"cluster_detection_method": "slurm"}
  elif "tpu" in (jax.config.values["jax_platforms"] or ""):  # as JAX sets it on a Cloud TPU machine
    how = {}
  else:
    return
  jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from Python
  try:
    # JAX's own heartbeat aborts after half to all of this time, so later than ours, which reports more
    jax.distributed.initialize(initialization_timeout=timeout, heartbeat_timeout_seconds=2 * STUCK_AFTER + 60, **how)
  except ValueError as error:
    if "coordinator_address" not in str(error):  # a TPU outside any pod
      raise
    return
  exit_reasons.listen(STUCK_AFTER)


def _check_processes(given: dict[str, Any]) -> None:
  missing = [f"--{name}" for name, value in given.items() if value is None]
  example = "as in --coordinator=10.0.0.1:1234 --num_processes=4 --process_id=0"
  if missing:
    raise ValueError(f"{' and '.join(missing)} missing; give all three flags, {example}.")
  coordinator, num_processes, process_id = given.values()
  host, _, port = coordinator.rpartition(":")
  if not (host and port.isdecimal() and 0 < int(port) < 2**16):
    raise ValueError(f"--coordinator={coordinator} is not an address; give host and port of process 0, {example}.")
  if num_processes < 1:
    raise ValueError(f"--num_processes={num_processes}, expected at least 1; count all processes, {example}.")
  if not 0 <= process_id < num_processes:
    raise ValueError(
      f"--process_id={process_id} must lie in 0..{num_processes - 1} with {num_processes} processes; count from 0."
    )


def process() -> dict[str, int]:
  """{"process_index", "process_count"}, as keyword arguments for the data pipeline."""
  return {"process_index": jax.process_index(), "process_count": jax.process_count()}


def several() -> bool:
  """Whether the run has more than one process."""
  return jax.process_count() > 1


def is_first() -> bool:
  """Whether this is process 0, which prints and writes whatever is written once."""
  return jax.process_index() == 0


def announce(text: str) -> None:
  """Prints in process 0 only; a closed pipe does not end the run, as Ctrl-C also ends `| tee`."""
  if is_first():
    try:
      print(text, flush=True)
    except BrokenPipeError:
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def from_first(fun: Callable[[], Any]) -> Any:
  """Calls `fun` in process 0 only, while the others wait, and returns its result in all; otherwise as `from_all`."""
  return from_all(fun if is_first() else lambda: None)[0]


def broadcast(a: np.ndarray) -> np.ndarray:
  """Broadcasts process 0's array of integers or booleans; all call it, with arrays of the same shape."""
  if not several():
    return a
  _barrier()
  return np.asarray(multihost_utils.broadcast_one_to_all(np.asarray(a, np.int32))).astype(a.dtype)


def from_all(fun: Callable[[], Any]) -> list[Any]:
  """Calls `fun` in every process and returns the results ordered by process; all must call it together.

  Args:
    fun: returns something short and JSON-serialisable.

  Raises:
    ValueError: in the other processes, if `fun` failed in one, which raises its own error.
    SystemExit: in the other processes, if one was stopped meanwhile.
  """
  if not several():
    return [fun()]
  value = failure = None
  try:
    value = fun()
  except BaseException as error:  # if a process exited here, the others would block in the next collective
    failure = error
  _barrier()
  answer = {"value": value} if failure is None else {"failure": f"{type(failure).__name__}: {failure}"[:300]}
  if isinstance(failure, exit_reasons.Stopped):
    answer = {"exit": failure.code}
  text = np.frombuffer(json.dumps(answer).encode().ljust(MAX_BYTES), np.uint8)
  answers = [json.loads(bytes(row)) for row in multihost_utils.process_allgather(text)]
  if failure is not None:
    raise failure
  for process_id, answer in enumerate(answers):
    if "exit" in answer:
      exit_reasons.wait_for_reason()
      raise SystemExit(answer["exit"])
    if "failure" in answer:
      for _ in range(4):  # that process reports its own error, and for a bug only after listening for others'
        exit_reasons.wait_for_reason()
      raise ValueError(f"process {process_id} has failed: {answer['failure']}")
  return [answer["value"] for answer in answers]


def _barrier() -> None:
  """Waits for up to a week, whereas a collective between CPUs times out after half a minute."""
  from orbax.checkpoint.multihost import get_barrier_sync_fn  # here, as a single process does not need it

  get_barrier_sync_fn()(key=f"diffjax/{next(_BARRIERS)}", timeout_ms=7 * 24 * 3600 * 1000)


_BARRIERS = itertools.count()
"""Barrier numbers, the same in all processes, as each barrier is used once."""


def any_process(flag: Any) -> Any:
  """Whether `flag` is true in any process; all must call it, in the same order.

  Args:
    flag: anything with a truth value.

  Returns:
    Something with that truth value: with one process the flag itself, which may still change; with several an array
    that blocks only when its value is read, so that the devices keep working.
  """
  if not several():
    return flag
  return _count()(np.full(jax.local_device_count(), bool(flag), np.int32)).addressable_data(0)


@functools.cache
def _count() -> Callable:
  return jax.pmap(lambda flag: jax.lax.psum(flag, "devices"), axis_name="devices")


def count_true(flag: bool) -> int:
  """In how many processes `flag` is true; all must call it, and each waits until the last one does."""
  if not several():
    return int(flag)
  _barrier()
  return int(multihost_utils.process_allgather(np.int32(flag)).sum())


def local_slice(num: int) -> slice:
  """This process's slice of `num` items split evenly among all processes; `unshard` joins the parts."""
  size = num // jax.process_count()
  return slice(jax.process_index() * size, (jax.process_index() + 1) * size)
