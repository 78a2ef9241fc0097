"""Device memory: what a compiled program needs of it, and what to say when it does not suffice."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax

from diffjax.typing import PyTree

EXHAUSTED = "RESOURCE_EXHAUSTED"
"""How XLA's errors begin when memory does not suffice."""
_SIZE = r"([\d.]+) ?((?:[KMGT]i?)?B?(?:ytes)?)\b"
_WANTED = re.compile(rf"(?:allocate|allocating|reserve|Used) {_SIZE}", re.IGNORECASE)
_CAPACITY = re.compile(rf"Used \S+ of {_SIZE}")
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


@dataclasses.dataclass(frozen=True)
class Needs:
  """Bytes on each device that a compiled program needs.

  Attributes:
    arguments: what it is given; of a training step the state, the batches and data that live on the device.
    temporaries: what it makes on its way; of a training step gradients and activations.
    outputs: what it returns in buffers that are not those of its arguments.
  """

  arguments: int
  temporaries: int
  outputs: int

  @property
  def total(self) -> int:
    return self.arguments + self.temporaries + self.outputs


def needs(compiled: Any) -> Needs | None:
  """What `jax.jit(f).lower(...).compile()` needs by its own `memory_analysis()`; None where the backend has none."""
  try:
    analysis = compiled.memory_analysis()
  except NotImplementedError:
    return None
  if analysis is None:
    return None
  outputs = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
  return Needs(analysis.argument_size_in_bytes, analysis.temp_size_in_bytes, outputs)


def tree_bytes(tree: PyTree) -> int:
  """Bytes of all leaves, which need no more than a shape and a dtype."""
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def device_bytes() -> int | None:
  """What JAX may use of the first device's memory, where the device tells."""
  stats = jax.local_devices()[0].memory_stats() or {}
  return stats.get("bytes_limit")


def text(num_bytes: float) -> str:
  """Bytes for people.

  >>> text(7406166528)
  '6.9 GiB'
  """
  power = next((power for power in (4, 3, 2, 1) if num_bytes >= 1024**power), 0)
  return f"{num_bytes / 1024**power:.1f} {['B', 'KiB', 'MiB', 'GiB', 'TiB'][power]}" if power else f"{num_bytes:.0f} B"


def wanted(message: str) -> int | None:
  """Bytes that were asked for, in the words of XLA's allocators on CPU, GPU and TPU and of its compiler for TPU."""
  return _bytes(_WANTED.search(message))


@contextlib.contextmanager
def explaining(step: Any, settings: dict[str, Any]) -> Iterator[Callable]:
  """Yields a compiled step; where memory does not suffice in the block, the reason is told in one sentence.

  Args:
    step: a compiled function with `lower`, such as `jax.jit` and `devices.pmap` give; None where there is none yet.
    settings: the values that may be changed: of a config "train.batch_size", "train.accumulate", "model.remat" and
      "parallel", of drawing "batch_size".

  Raises:
    MemoryError: in place of XLA's RESOURCE_EXHAUSTED, which devices that work asynchronously may raise late.
  """
  called_with = []

  def remembering(*args):
    if not called_with:  # before the call, which may take the buffers
      called_with.append(jax.tree.map(_shape, args))
    return step(*args)

  try:
    yield remembering
  except jax.errors.JaxRuntimeError as error:
    if EXHAUSTED not in str(error):
      raise
    raise MemoryError(explanation(str(error), _needs_of(step, called_with), settings)) from error


def explanation(message: str, program: Needs | None, settings: dict[str, Any]) -> str:
  """One sentence: bytes wanted, bytes there are, bytes the step needs, what to lower; `settings` as `explaining`."""
  asked, capacity = wanted(message), _bytes(_CAPACITY.search(message)) or device_bytes()
  sentence = "a device is out of memory" + (f": {text(asked)} were wanted" if asked else "")
  sentence += f" where it has {text(capacity)} in all" if capacity else ""
  if program:
    sentence += (
      f"; the program needs {text(program.total)} on each device, {text(program.temporaries)} of it for"
      " what it computes on its way"
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
  except Exception:  # it may be the compiler that ran out; nothing here may hide that
    return None


def _shape(leaf):
  if not hasattr(leaf, "shape"):
    return leaf
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))


def _bytes(match: re.Match | None) -> int | None:
  return int(float(match[1]) * 1024 ** _POWERS[match[2][:1].upper().replace("B", "")]) if match else None
