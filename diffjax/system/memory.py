"""Device memory: how much a compiled program needs, and the error message when it runs out."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax

from diffjax.typing import PyTree

EXHAUSTED = "RESOURCE_EXHAUSTED"
"""The start of XLA's out-of-memory errors."""
_SIZE = r"([\d.]+) ?((?:[KMGT]i?)?B?(?:ytes)?)\b"
_WANTED = re.compile(rf"(?:allocate|allocating|reserve|Used) {_SIZE}", re.IGNORECASE)
_CAPACITY = re.compile(rf"Used \S+ of {_SIZE}")
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


@dataclasses.dataclass(frozen=True)
class Needs:
  """Bytes that a compiled program needs on each device.

  Attributes:
    arguments: its inputs; for a training step the state, the batches and data that live on the device.
    temporaries: intermediate values; for a training step gradients and activations.
    outputs: its results that do not reuse the buffers of its arguments.
  """

  arguments: int
  temporaries: int
  outputs: int

  @property
  def total(self) -> int:
    return self.arguments + self.temporaries + self.outputs


def needs(compiled: Any) -> Needs | None:
  """What `jax.jit(f).lower(...).compile()` needs according to its `memory_analysis()`; None if there is none."""
  try:
    analysis = compiled.memory_analysis()
  except NotImplementedError:
    return None
  if analysis is None:
    return None
  outputs = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
  return Needs(analysis.argument_size_in_bytes, analysis.temp_size_in_bytes, outputs)


def tree_bytes(tree: PyTree) -> int:
  """Bytes of all leaves, which need only a shape and a dtype."""
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def device_bytes() -> int | None:
  """Bytes of the first device's memory that JAX may use; None if the device does not report it."""
  stats = jax.local_devices()[0].memory_stats() or {}
  return stats.get("bytes_limit")


def text(num_bytes: float) -> str:
  """Formats a number of bytes.

  >>> text(7406166528)
  '6.9 GiB'
  """
  power = next((power for power in (4, 3, 2, 1) if num_bytes >= 1024**power), 0)
  return f"{num_bytes / 1024**power:.1f} {['B', 'KiB', 'MiB', 'GiB', 'TiB'][power]}" if power else f"{num_bytes:.0f} B"


def wanted(message: str) -> int | None:
  """The bytes requested, parsed from errors of XLA's allocators on CPU, GPU and TPU and of its compiler for TPU."""
  return _bytes(_WANTED.search(message))


@contextlib.contextmanager
def explaining(step: Any, settings: dict[str, Any]) -> Iterator[Callable]:
  """Yields a compiled step, and explains in one sentence when the block runs out of device memory.

  Args:
    step: a compiled function with `lower`, as from `jax.jit` or `devices.pmap`; None if there is none yet.
    settings: the values that may be changed: "train.batch_size", "train.accumulate", "model.remat" and "parallel" for
      a config, "batch_size" for sampling.

  Raises:
    MemoryError: in place of XLA's RESOURCE_EXHAUSTED, which asynchronous devices may raise late.
  """
  called_with = []

  def remembering(*args):
    if not called_with:  # before the call, which may donate the buffers
      called_with.append(jax.tree.map(_shape, args))
    return step(*args)

  try:
    yield remembering
  except jax.errors.JaxRuntimeError as error:
    if EXHAUSTED not in str(error):
      raise
    raise MemoryError(explanation(str(error), _needs_of(step, called_with), settings)) from error


def explanation(message: str, program: Needs | None, settings: dict[str, Any]) -> str:
  """One sentence: bytes requested, available and needed by the step, what to change; `settings` as `explaining`."""
  asked, capacity = wanted(message), _bytes(_CAPACITY.search(message)) or device_bytes()
  sentence = "a device is out of memory" + (f": requested {text(asked)}" if asked else "")
  sentence += f", {text(capacity)} available in total" if capacity else ""
  if program:
    sentence += (
      f", and the program needs {text(program.total)} on each device, {text(program.temporaries)} of it for temporaries"
    )
  advice = {
    "batch_size": "lower batch_size (now {})",
    "train.batch_size": "lower train.batch_size (now {})",
    "train.accumulate": "raise train.accumulate (now {})",
    "model.remat": "set model.remat=True",
    "parallel": "set parallel=fsdp",
  }
  done = ("model.remat", True), ("parallel", "fsdp")
  possible = [advice[key].format(value) for key, value in settings.items() if (key, value) not in done]
  return f"{sentence}; {', or '.join(possible)}."


def _needs_of(step, called_with) -> Needs | None:
  try:
    return needs(step.lower(*called_with[0]).compile()) if called_with else None
  except Exception:  # the compiler itself may have run out of memory; nothing here may hide that
    return None


def _shape(leaf):
  if not hasattr(leaf, "shape"):
    return leaf
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))


def _bytes(match: re.Match | None) -> int | None:
  return int(float(match[1]) * 1024 ** _POWERS[match[2][:1].upper().replace("B", "")]) if match else None
