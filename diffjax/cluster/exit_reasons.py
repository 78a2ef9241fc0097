"""Heartbeats and exit reasons, which the processes of a run send each other.

Without them, when one process exits or hangs, the others block in the next collective.
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

RESUMABLE = 75
"""Exit code (EX_TEMPFAIL) of a run that lost a process or hung; the same command resumes it."""
GRACE = 5.0
"""Seconds, at least, that an exiting process 0 waits for the others to acknowledge its reason; then JAX aborts them."""
MAX_CHARACTERS = 1000
"""Maximum characters of an exit reason."""
_ALIVE, _EXITED, _ACKNOWLEDGED = (f"diffjax/{name}/" for name in ("alive", "exited", "acknowledged"))
_FAILURES = 5
"""Consecutive failed requests after which the run is considered over."""
_exiting = threading.Lock()
_step = 0
_answered = 0.0


class Stopped(SystemExit):
  """Exits the program after a signal, with exit code 128 + its number."""

  code: int

  def __init__(self, signum: int):
    super().__init__(128 + signum)
    self.reason = f"was stopped by {signal.Signals(signum).name}"


def is_first() -> bool:
  """Whether this is process 0; does not initialise any device."""
  return _run().process_id == 0


def progress(step: int) -> None:
  """Records the latest step, for the message about a hung process."""
  global _step
  _step = step


def listen(stuck_after: float) -> None:
  """Starts the threads that end this process if another one calls `exit_all` or sends no heartbeat for `stuck_after` s.

  Call after JAX has joined the processes. If one halts, the others dump their stacks and exit with RESUMABLE.
  """
  global _answered
  _answered = time.monotonic()
  run, over = _run(), threading.Event()
  listener = threading.Thread(target=_listen, args=(run, stuck_after, over), daemon=True)
  listener.start()
  if run.process_id != 0:
    threading.Thread(target=_watch_process_0, args=(run, stuck_after, over), daemon=True).start()

  @atexit.register
  def end():
    try:
      jax.distributed.shutdown()  # waits for the others, which may still send an exit reason
    finally:
      over.set()
      listener.join(GRACE)  # Python would kill the thread inside a C++ call, which aborts


def wait_for_reason() -> None:
  """Waits long enough for another process's exit reason to arrive; a collective fails sooner than that."""
  time.sleep(3 * _pause(_run()))


def exit_all(code: int, reason: str, *, say: Callable[[], None] = lambda: None, at_once: bool = False) -> NoReturn:
  """Ends this process and all others of its run.

  Args:
    code: the exit code of all of them.
    reason: what the others print after the index of this process: "has failed: ...".
    say: prints this process's own message; not called if this process is already exiting for another reason.
    at_once: only send the reason; do not wait for the others or flush the output.
  """
  patience = 1.0 if at_once else 2 * _grace(_run())
  try:
    if _exiting.acquire(timeout=patience):  # never released; fails if another thread is already exiting
      with contextlib.suppress(OSError):  # the reader of a pipe may have exited
        say()
      if jax.distributed.is_initialized():
        # In a thread, as a hung process 0 never answers
        _with_timeout(lambda: _send(_run(), code, reason, at_once), patience)
  finally:
    _exit(code, at_once)


def _send(run, code, reason, at_once):
  run.client.key_value_set(f"{_EXITED}{run.process_id}", f"{code} {reason[:MAX_CHARACTERS]}", allow_overwrite=True)
  if run.process_id == 0 and not at_once:
    _wait_until_acknowledged(run)


def _wait_until_acknowledged(run):
  deadline = time.monotonic() + _grace(run)
  others = lambda: {
    key.rpartition("/")[2] for name in (_EXITED, _ACKNOWLEDGED) for key, _ in run.client.key_value_dir_get(name)
  }
  while time.monotonic() < deadline and len(others() | {"0"}) < run.num_processes:
    time.sleep(0.05)
  time.sleep(0.5)  # until they have exited


def _listen(run, stuck_after, over):
  global _answered
  client, index, failures = run.client, run.process_id, 0
  seen = {str(i): (None, time.monotonic()) for i in range(run.num_processes)}
  while not over.wait(_pause(run)):
    try:
      client.key_value_set(f"{_ALIVE}{index}", f"{time.monotonic()} {_step}", allow_overwrite=True)
      exited = client.key_value_dir_get(_EXITED)
      alive = client.key_value_dir_get(_ALIVE) if index == 0 else ()
    except jax.errors.JaxRuntimeError:
      failures += 1
      if failures == _FAILURES:
        return
      continue
    failures, now = 0, time.monotonic()
    _answered = now
    if exited:
      _exit_with(run, *exited[0])
    for key, message in alive:
      who = key.rpartition("/")[2]
      if seen[who][0] != message:
        seen[who] = message, now
    silent = [who for who, (_, since) in seen.items() if index == 0 and now - since > stuck_after]
    if silent:
      reason = _silence(silent[0], stuck_after)
      exit_all(RESUMABLE, reason, say=functools.partial(_report, run, reason))


def _exit_with(run, key, message):
  """Exits because another process does."""
  if not _exiting.acquire(blocking=False):
    return
  code, reason = message.split(" ", 1)
  try:
    sentence = f"process {key.rpartition('/')[2]} of {run.num_processes} {reason}"
    print(f"error: {sentence}" if int(code) in (1, RESUMABLE) else sentence, file=sys.stderr, flush=True)
    if int(code) == RESUMABLE:
      faulthandler.dump_traceback(all_threads=True)
    run.client.key_value_set(f"{_ACKNOWLEDGED}{run.process_id}", message, allow_overwrite=True)
    if run.process_id == 0:
      _wait_until_acknowledged(run)
  finally:
    _exit(int(code))


def _watch_process_0(run, stuck_after, over):
  """Exits when process 0 stops answering: the heartbeats are checked there, so the others must watch it directly."""
  while time.monotonic() - _answered < stuck_after:
    if over.wait(_pause(run)):
      return
  try:
    _report(run, _silence("0", stuck_after))
  finally:
    _exit(RESUMABLE)


def _silence(who, seconds):
  return f"has not heard from process {who} for {seconds:.0f} s, at step {_step}; run the same command to resume."


def _report(run, reason):
  sentence = f"error: process {run.process_id} of {run.num_processes} {reason} Stacks of all threads:"
  print(sentence, file=sys.stderr, flush=True)
  faulthandler.dump_traceback(all_threads=True)


def _with_timeout(call, seconds):
  thread = threading.Thread(target=call, daemon=True)
  thread.start()
  thread.join(seconds)


def _exit(code: int, at_once: bool = False) -> NoReturn:
  try:
    if not at_once:
      _with_timeout(_flush, 0.5)
  finally:
    os._exit(code)


def _flush():
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(Exception):  # the reader of a pipe may have exited
      stream.flush()


def _pause(run) -> float:
  """Seconds between two requests, growing with the number of processes, as process 0 serves them all."""
  return max(0.5, (run.num_processes or 1) / 64)


def _grace(run) -> float:
  return max(GRACE, 2 * _pause(run))


def _run() -> Any:
  """JAX's private state of the distributed run; its public interface has only barriers and broadcasts."""
  from jax._src.distributed import global_state

  return global_state
