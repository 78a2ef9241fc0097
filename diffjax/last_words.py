"""What a process that leaves its run alone tells the others, which would wait for it for ever."""

import os
import sys
import threading
import time
from typing import Any, NoReturn

import jax

GRACE = 5.0
"""Seconds that who leaves waits for the others to have heard it."""
LONGEST = 1000
"""Characters of what is told."""
_PAUSE = 0.5
_LEFT = "diffjax/left/"
_speaking = threading.Lock()


def listen() -> None:
  """From now on another process that `leave`s takes this one with it; for processes that JAX has joined."""
  threading.Thread(target=_listen, args=(_joined(),), daemon=True).start()


def leave(code: int, reason: str, grace: float = GRACE) -> NoReturn:
  """Ends this process at once, and with it all others of its run.

  Args:
    code: the exit code, of all of them.
    reason: what the others print, after the number of this process: "has failed: ...".
    grace: in seconds, how long to wait until they have heard.
  """
  if not _speaking.acquire(timeout=grace):  # for good; it is taken where another thread leaves already
    _exit(code)
  if jax.distributed.is_initialized():
    # In a thread, for a process 0 that hangs answers never
    telling = threading.Thread(target=_tell, args=(_joined(), code, reason, grace), daemon=True)
    telling.start()
    telling.join(grace)
  _exit(code)


def hear() -> None:
  """Waits as long as another process's last words take to come; a collective fails sooner than they are heard."""
  time.sleep(3 * _PAUSE)


def _tell(run, code, reason, grace):
  run.client.key_value_set(f"{_LEFT}{run.process_id}", f"{code} {reason[:LONGEST]}", allow_overwrite=True)
  if run.process_id == 0:  # it answers the others' questions, and JAX aborts them when it is gone
    end = time.monotonic() + grace - _PAUSE
    while time.monotonic() < end and len(run.client.key_value_dir_get(_LEFT)) < run.num_processes:
      time.sleep(_PAUSE / 10)
    time.sleep(_PAUSE)


def _listen(run):
  client, left = run.client, []
  while not left:
    time.sleep(_PAUSE)
    try:
      left = client.key_value_dir_get(_LEFT)
    except jax.errors.JaxRuntimeError:  # the run is over
      return
  if _speaking.acquire(blocking=False):
    key, told = left[0]
    code, reason = told.split(" ", 1)
    sentence = f"process {key.rpartition('/')[2]} of {run.num_processes} {reason}"
    print(f"error: {sentence}" if int(code) == 1 else sentence, file=sys.stderr)
    _tell(run, code, reason, GRACE)
    _exit(int(code))


def _exit(code: int) -> NoReturn:
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def _joined() -> Any:
  """What JAX knows of the run; in public it offers barriers and broadcasts alone."""
  from jax._src.distributed import global_state

  return global_state
