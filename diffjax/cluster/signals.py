"""Stopping by signal without losing work."""

import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

from diffjax.cluster import exit_reasons
from diffjax.cluster.exit_reasons import Stopped

PATIENCE = 15.0
"""Seconds after a signal until a loop that has not responded is ended; preempted machines get 25 to 30."""


class StopRequest:
  """Records Ctrl-C and SIGTERM so that the loop can save and exit; a second signal ends the process at once.

  As a context manager it restores the previous handlers on exit. The exit code is always 128 + the signal's number.
  Python's signal handlers do not run while the main thread compiles or waits for a device, so a thread listens too: if
  the loop has not called `acknowledge` within `patience`, it makes the calls registered by `on_timeout` and exits.

  Args:
    patience: seconds, by default PATIENCE.
    interrupt: raise `Stopped` in the main thread, whatever it is doing; for programs without a loop that checks this.

  Attributes:
    signum: the signal received, or None.
  """

  signum: int | None = None

  def __init__(self, patience: float | None = None, *, interrupt: bool = False):
    self._patience = PATIENCE if patience is None else patience
    self._interrupt, self._acknowledged = interrupt, False
    self._rescue, self._lock = (), threading.Lock()

  def __enter__(self):
    self._ours, self._signals = socket.socketpair()
    self._signals.setblocking(False)
    self._former = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
    if self._interrupt:
      self._former_hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
    self._former_wakeup = signal.set_wakeup_fd(self._signals.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=self._listen, daemon=True).start()
    return self

  def __exit__(self, *error):
    self.acknowledge()
    signal.set_wakeup_fd(self._former_wakeup)
    if self._interrupt:
      sys.unraisablehook = self._former_hook
    for number, handler in self._former.items():
      signal.signal(number, handler)
    self._signals.close()  # ends the thread

  def __bool__(self) -> bool:
    return self.signum is not None

  @property
  def exit_code(self) -> int:
    """128 + the signal's number, or SIGTERM's in a process that stops because another one received a signal."""
    return 128 + (self.signum or signal.SIGTERM)

  def acknowledge(self) -> None:
    """Tells the thread that the loop is exiting: however long saving takes, only a second signal now ends it early."""
    with self._lock:
      self._acknowledged = True

  @contextlib.contextmanager
  def on_timeout(self, *rescue: Callable[[], None]) -> Iterator[None]:
    """Within the block, a request that runs out of patience makes the `rescue` calls, in a thread, before exiting."""
    with self._lock:
      former, self._rescue = self._rescue, rescue
    try:
      yield
    finally:
      with self._lock:  # waits for a rescue in progress, which then ends the process
        self._rescue = former

  def _note(self, signum, frame):
    if self:
      _exit(signum, at_once=True)
    self.signum = signum
    if self._interrupt:
      raise Stopped(signum)

  def _unraisable(self, unraisable):
    if not isinstance(unraisable.exc_value, Stopped):  # in the garbage collector it is lost; patience runs out
      self._former_hook(unraisable)

  def _listen(self):
    """Receives each signal's number as it arrives, whatever the main thread is doing."""
    with self._ours:
      first = self._next_signal()
      if first:
        timer = threading.Timer(self._patience, self._time_out, (first,))
        timer.daemon = True
        timer.start()
        second = self._next_signal()
        if second:
          _exit(second, at_once=True)
        timer.cancel()

  def _next_signal(self) -> int | None:
    while data := self._ours.recv(1):
      if data[0] in self._former:
        return data[0]
    return None

  def _time_out(self, signum):
    with self._lock:
      if self._acknowledged:
        return
      try:
        self._call_rescue()
        if not self._interrupt:
          print("stopped; the same command resumes from the last checkpoint, if there is one", flush=True)
      finally:
        _exit(signum)

  def _call_rescue(self):
    try:
      for call in self._rescue:
        call()
    except OSError as error:
      print(f"error: {error}", file=sys.stderr)


def _exit(signum: int, at_once: bool = False) -> NoReturn:
  stopped = Stopped(signum)
  exit_reasons.exit_all(stopped.code, stopped.reason, at_once=at_once)
