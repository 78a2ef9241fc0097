"""The phases of a run, at which tests and monitoring tools can hook in."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

PHASES = ("data", "start", "step", "evaluation", "preview", "save")
"""Each is reached before what it names: loading data; making or restoring the state; a call of the compiled step, with
the steps done, the steps of this call, the state and the batches; an evaluation; drawing a preview; finishing a
checkpoint, in the thread that writes it."""

_hooks: list[Callable[..., None]] = []


@contextlib.contextmanager
def hooked(hook: Callable[..., None]) -> Iterator[None]:
  """Within the block, calls `hook(phase, *details)` as a run reaches each of PHASES; what it raises ends the run.

  What it raises at "save" is reported as a checkpoint that cannot be written.
  """
  _hooks.append(hook)
  try:
    yield
  finally:
    _hooks.remove(hook)


def reach(phase: str, *details: Any) -> None:
  """Calls the hooks."""
  for hook in list(_hooks):
    hook(phase, *details)
