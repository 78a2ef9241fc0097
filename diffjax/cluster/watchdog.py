"""What ends a run whose processes wait for one that answers no more."""

import faulthandler
import sys
import threading
import time

from diffjax.cluster import exit_reasons, processes

SLOW = 12
"""How many times longer may take what compiles, draws or writes than what a step may."""


class Watchdog:
  """Ends this process, with what it was doing, when no step has finished for a long time.

  A process that hangs leaves all others waiting in a collective, for ever. Each of them then writes its number, its
  last step and the Python stacks of all its threads to stderr, and exits with 75. In a run of one process it does
  nothing: there a slow step is a slow step. `exit_reasons` tells of processes that are halted, whatever they did.

  Args:
    step: steps done before.
    timeout: in seconds.
  """

  def __init__(self, step: int, timeout: float = processes.STUCK_AFTER):
    self._timeout, self._closed = timeout, threading.Event()
    self.beat(step, slow=True)

  def __enter__(self):
    if processes.several():
      threading.Thread(target=self._watch, daemon=True).start()
    return self

  def __exit__(self, kind, *error):
    if kind is None or issubclass(kind, SystemExit):
      self._closed.set()  # else it watches on: a process that failed alone waits for the others before it can exit

  def beat(self, step: int, *, slow: bool = False) -> None:
    """Says that all is well: `step` has finished, or a part of what comes between it and the next.

    Args:
      step: how many are done.
      slow: more than a step comes next; it may take SLOW times as long.
    """
    self._step, self._time = step, time.monotonic()
    exit_reasons.progress(step)
    self._limit = self._timeout * (SLOW if slow else 1)

  def _watch(self):
    while not self._closed.wait(min(1.0, self._timeout / 4)):
      if time.monotonic() - self._time > self._limit:
        exit_reasons.leave(exit_reasons.GONE_ON, f"waits in vain since step {self._step}", say=self._report)

  def _report(self):
    index, count = processes.process().values()
    print(
      f"error: process {index} of {count} waits in vain: since step {self._step}, {self._limit:.0f} s ago, no"
      " step has finished; another process may hang or be gone. The same command goes on from the last checkpoint."
      " What each thread does:",
      file=sys.stderr,
      flush=True,
    )
    faulthandler.dump_traceback(all_threads=True)
