"""Ends a run whose processes wait for one that no longer responds."""

import faulthandler
import sys
import threading
import time

from diffjax.cluster import exit_reasons, processes

SLOW = 12
"""Factor by which compiling, drawing or writing may exceed the time limit of a step."""


class Watchdog:
  """Ends this process and dumps its stacks when no step has finished for a long time.

  If one process hangs, all others would wait in a collective forever. Instead each writes its index, its last step and
  the Python stacks of all its threads to stderr, and exits with 75. With a single process the watchdog does nothing: a
  slow step is just a slow step. `exit_reasons` detects processes that are halted altogether. The standard library's
  `faulthandler.dump_traceback_later` would do half of this: it cannot name the process and step, nor exit with 75.

  Args:
    step: steps already done.
    timeout: seconds, by default `processes.STUCK_AFTER`.
  """

  def __init__(self, step: int, timeout: float | None = None):
    self._timeout, self._closed = timeout or processes.STUCK_AFTER, threading.Event()
    self.beat(step, slow=True)

  def __enter__(self):
    if processes.several():
      threading.Thread(target=self._watch, daemon=True).start()
    return self

  def __exit__(self, kind, *error):
    if kind is None or issubclass(kind, SystemExit):
      self._closed.set()  # on an error keep watching: a process that failed alone waits for the others to exit

  def beat(self, step: int, *, slow: bool = False) -> None:
    """Resets the timer: `step` has finished, or part of the work between it and the next one.

    Args:
      step: number of steps done.
      slow: whether more than a step comes next, which may take SLOW times as long.
    """
    self._step, self._time = step, time.monotonic()
    exit_reasons.progress(step)
    self._limit = self._timeout * (SLOW if slow else 1)

  def _watch(self):
    while not self._closed.wait(min(1.0, self._timeout / 4)):
      if time.monotonic() - self._time > self._limit:
        reason = f"has been stuck since step {self._step}; run the same command to resume."
        exit_reasons.exit_all(exit_reasons.RESUMABLE, reason, say=self._report)

  def _report(self):
    index, count = processes.process().values()
    print(
      f"error: process {index} of {count} is stuck: since step {self._step}, {self._limit:.0f} s ago, no step has"
      " finished, perhaps because another process hung or exited; run the same command to resume from the last"
      " checkpoint. Stacks of all threads:",
      file=sys.stderr,
      flush=True,
    )
    faulthandler.dump_traceback(all_threads=True)
