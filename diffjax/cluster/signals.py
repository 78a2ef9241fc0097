"""A stop by signal that loses nothing."""

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
"""Seconds from a signal to the end of a loop that has not come by: machines are taken away after 25 to 30."""


class StopRequest:
  """Notes Ctrl-C and SIGTERM so that the loop can save and leave; a second one ends the process at once.

  As a context manager it restores the former handlers. Whatever ends the process, the exit code is 128 + the signal's
  number. Python's handlers wait while the main thread compiles or waits for a device, so a thread listens as well: if
  the loop has not `heed`ed the request within `patience`, it ends the process, after what `meanwhile` was told.

  Args:
    patience: in seconds.
    leave: leave by `Stopped` out of whatever the main thread does, for programs without a loop that would heed.

  Attributes:
    signum: the signal received, or None.
  """

  signum: int | None = None

  def __init__(self, patience: float = PATIENCE, *, leave: bool = False):
    self._patience, self._leave, self._heeded = patience, leave, False
    self._rescue, self._lock = (), threading.Lock()

  def __enter__(self):
    self._ours, self._signals = socket.socketpair()
    self._signals.setblocking(False)
    self._former = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
    if self._leave:
      self._former_hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
    self._former_wakeup = signal.set_wakeup_fd(self._signals.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=self._listen, daemon=True).start()
    return self

  def __exit__(self, *error):
    self.heed()
    signal.set_wakeup_fd(self._former_wakeup)
    if self._leave:
      sys.unraisablehook = self._former_hook
    for number, handler in self._former.items():
      signal.signal(number, handler)
    self._signals.close()  # ends the thread

  def __bool__(self) -> bool:
    return self.signum is not None

  @property
  def exit_code(self) -> int:
    """128 + the signal's number, or SIGTERM's in a process that leaves because another one was asked to."""
    return 128 + (self.signum or signal.SIGTERM)

  def heed(self) -> None:
    """Says that the loop is on its way out: however long its saving takes, only a second signal ends it."""
    with self._lock:
      self._heeded = True

  @contextlib.contextmanager
  def meanwhile(self, *rescue: Callable[[], None]) -> Iterator[None]:
    """While the body runs, a request that is out of patience calls `rescue`, from a thread, before the end."""
    with self._lock:
      former, self._rescue = self._rescue, rescue
    try:
      yield
    finally:
      with self._lock:  # a rescue that has begun is waited for, and so the end of the process
        self._rescue = former

  def _note(self, signum, frame):
    if self:
      _leave(signum, at_once=True)
    self.signum = signum
    if self._leave:
      raise Stopped(signum)

  def _unraisable(self, told):
    if not isinstance(told.exc_value, Stopped):  # the garbage collector swallows it; then patience ends
      self._former_hook(told)

  def _listen(self):
    """Takes the number of each signal as it comes, whatever the main thread does."""
    with self._ours:
      first = self._hear()
      if first:
        timer = threading.Timer(self._patience, self._lose_patience, (first,))
        timer.daemon = True
        timer.start()
        second = self._hear()
        if second:
          _leave(second, at_once=True)
        timer.cancel()

  def _hear(self) -> int | None:
    while data := self._ours.recv(1):
      if data[0] in self._former:
        return data[0]
    return None

  def _lose_patience(self, signum):
    with self._lock:
      if self._heeded:
        return
      try:
        self._call_rescue()
        if not self._leave:
          print("stopped; the same command goes on from the last checkpoint", flush=True)
      finally:
        _leave(signum)

  def _call_rescue(self):
    try:
      for call in self._rescue:
        call()
    except OSError as error:
      print(f"error: {error}", file=sys.stderr)


def _leave(signum: int, at_once: bool = False) -> NoReturn:
  stopped = Stopped(signum)
  exit_reasons.leave(stopped.code, stopped.reason, at_once=at_once)
