"""Signs of life and exit reasons, which the processes of a run send each other.

If a process exits or hangs on its own, the others block in the next collective.
"""

import atexit
import contextlib
import faulthandler
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import jax

GONE_ON = 75
"""Exit code (EX_TEMPFAIL) of a run that lost a process or hung; the same command resumes it."""
GRACE = 5.0
"""Seconds that process 0 waits at least, when it exits, for the others to receive its reason; JAX then aborts them."""
LONGEST = 1000
"""Characters of an exit reason."""
_ALIVE, _LEFT, _HEARD = (f"diffjax/{name}/" for name in ("alive", "left", "heard"))
_FAILURES = 5
"""Unanswered requests in a row after which the run counts as over."""
_leaving = threading.Lock()
_step = 0
_answered = 0.0


class Stopped(SystemExit):
  """Leaves a program by a signal, with the exit code 128 + its number."""

  code: int

  def __init__(self, signum: int):
    super().__init__(128 + signum)
    self.reason = f"was stopped by {signal.Signals(signum).name}"


def is_first() -> bool:
  """Whether this is process 0, asking no device."""
  return _run().process_id == 0


def progress(step: int) -> None:
  """Records the latest step, for the message of a process that hangs."""
  global _step
  _step = step


def listen(stuck_after: float) -> None:
  """From now on a process that `leave`s, or is not heard of for `stuck_after` s, takes this one with it.

  For processes that JAX has joined. A process that halts ends the others with GONE_ON and their stacks.
  """
  global _answered
  _answered = time.monotonic()
  run, over = _run(), threading.Event()
  listener = threading.Thread(target=_listen, args=(run, stuck_after, over), daemon=True)
  listener.start()
  if run.process_id != 0:
    threading.Thread(target=_watch_first, args=(run, stuck_after, over), daemon=True).start()

  @atexit.register
  def end():
    try:
      jax.distributed.shutdown()  # waits for the others, of whom there may still be something to hear
    finally:
      over.set()
      listener.join(GRACE)  # Python would end it in the middle of a call of C++, which aborts


def hear() -> None:
  """Waits until another process's exit reason would have come; a collective fails sooner than that."""
  time.sleep(3 * _pause(_run()))


def leave(code: int, reason: str, *, say: Callable[[], None] = lambda: None, at_once: bool = False) -> NoReturn:
  """Ends this process, and with it all others of its run.

  Args:
    code: the exit code, of all of them.
    reason: what the others print, after the number of this process: "has failed: ...".
    say: prints what this process has to say; not called where another's words have come before.
    at_once: wait for nothing but that it is told, not even that what was printed is written.
  """
  patience = 1.0 if at_once else 2 * _grace(_run())
  try:
    if _leaving.acquire(timeout=patience):  # for good; it is taken where another thread leaves already
      with contextlib.suppress(OSError):  # nobody may be there to read
        say()
      if jax.distributed.is_initialized():
        # In a thread, for a process 0 that hangs answers never
        _in_time(lambda: _tell(_run(), code, reason, at_once), patience)
  finally:
    _exit(code, at_once)


def _tell(run, code, reason, at_once):
  run.client.key_value_set(f"{_LEFT}{run.process_id}", f"{code} {reason[:LONGEST]}", allow_overwrite=True)
  if run.process_id == 0 and not at_once:
    _wait_until_heard(run)


def _wait_until_heard(run):
  deadline = time.monotonic() + _grace(run)
  others = lambda: {key.rpartition("/")[2] for name in (_LEFT, _HEARD) for key, _ in run.client.key_value_dir_get(name)}
  while time.monotonic() < deadline and len(others() | {"0"}) < run.num_processes:
    time.sleep(0.05)
  time.sleep(0.5)  # until they are gone


def _listen(run, stuck_after, over):
  global _answered
  client, index, failures = run.client, run.process_id, 0
  seen = {str(i): (None, time.monotonic()) for i in range(run.num_processes)}
  while not over.wait(_pause(run)):
    try:
      client.key_value_set(f"{_ALIVE}{index}", f"{time.monotonic()} {_step}", allow_overwrite=True)
      left = client.key_value_dir_get(_LEFT)
      alive = client.key_value_dir_get(_ALIVE) if index == 0 else ()
    except jax.errors.JaxRuntimeError:
      failures += 1
      if failures == _FAILURES:
        return
      continue
    failures, now = 0, time.monotonic()
    _answered = now
    if left:
      _follow(run, *left[0])
    for key, told in alive:
      who = key.rpartition("/")[2]
      if seen[who][0] != told:
        seen[who] = told, now
    silent = [who for who, (_, since) in seen.items() if index == 0 and now - since > stuck_after]
    if silent:
      reason = _silence(silent[0], stuck_after)
      leave(GONE_ON, reason, say=functools.partial(_report, run, reason))


def _follow(run, key, told):
  """Leaves because another process does."""
  if not _leaving.acquire(blocking=False):
    return
  code, reason = told.split(" ", 1)
  try:
    sentence = f"process {key.rpartition('/')[2]} of {run.num_processes} {reason}"
    print(f"error: {sentence}" if int(code) in (1, GONE_ON) else sentence, file=sys.stderr, flush=True)
    if int(code) == GONE_ON:
      faulthandler.dump_traceback(all_threads=True)
    run.client.key_value_set(f"{_HEARD}{run.process_id}", told, allow_overwrite=True)
    if run.process_id == 0:
      _wait_until_heard(run)
  finally:
    _exit(int(code))


def _watch_first(run, stuck_after, over):
  """Process 0 cannot be missed by itself: where it halts, nobody's questions are answered."""
  while time.monotonic() - _answered < stuck_after:
    if over.wait(_pause(run)):
      return
  try:
    _report(run, _silence("0", stuck_after))
  finally:
    _exit(GONE_ON)


def _silence(who, seconds):
  return f"has not heard of process {who} for {seconds:.0f} s, at step {_step}; the same command goes on"


def _report(run, reason):
  sentence = f"error: process {run.process_id} of {run.num_processes} {reason}. What each thread does:"
  print(sentence, file=sys.stderr, flush=True)
  faulthandler.dump_traceback(all_threads=True)


def _in_time(call, seconds):
  thread = threading.Thread(target=call, daemon=True)
  thread.start()
  thread.join(seconds)


def _exit(code: int, at_once: bool = False) -> NoReturn:
  try:
    if not at_once:
      _in_time(_flush, 0.5)
  finally:
    os._exit(code)


def _flush():
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(Exception):  # nobody may be there to read
      stream.flush()


def _pause(run) -> float:
  """Seconds between two questions: process 0 answers those of all."""
  return max(0.5, (run.num_processes or 1) / 64)


def _grace(run) -> float:
  return max(GRACE, 2 * _pause(run))


def _run() -> Any:
  """What JAX knows of the run; in public it offers barriers and broadcasts alone."""
  from jax._src.distributed import global_state

  return global_state
