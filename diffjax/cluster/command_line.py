"""What the scripts share: a user's mistake is one sentence and a non-zero exit, a bug of ours stays a traceback."""

import contextlib
import faulthandler
import pathlib
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax

from diffjax.cluster import exit_reasons, processes
from diffjax.cluster.exit_reasons import Stopped
from diffjax.cluster.signals import StopRequest

LONGEST = 2000
"""Characters of an error that are told: some repeat what was given, however long."""
_SENTENCES = (ValueError, ImportError, FloatingPointError, MemoryError, OSError)
"""Errors whose text says what is wrong and how to mend it, where our own code raises them."""
_DISCONNECTED = re.compile("gloo|nccl|connection|heartbeat|coordination|UNAVAILABLE|DEADLINE_EXCEEDED", re.IGNORECASE)
"""In the errors of collectives whose other end is gone."""
_AGAIN = "the same command goes on from the last checkpoint"
_PACKAGE = pathlib.Path(__file__).parents[1]
_EXPECTED = {
  r"invalid literal for int\(\).*": "expected a whole number",
  "could not convert string to float.*": "expected a number",
  r"\('Non-boolean argument.*": "expected true or false",
}
"""What was expected, for what Python says of text that it cannot convert."""


def run(main: Callable[[], None]) -> None:
  """Parses absl's flags, joins the run's other processes and runs `main`, reporting errors as `reporting` does.

  Ctrl-C and SIGTERM end it at once, where `main` does not take them itself.
  """
  from absl import app, flags

  def joined(argv):
    join(flags.FLAGS)
    main()

  define_processes(flags.FLAGS)
  with reporting(), StopRequest(patience=2.0, leave=True):
    app.run(joined, flags_parser=parse)


def define_processes(values: Any) -> None:
  """The flags of a run of several processes, of every script that uses devices."""
  from absl import flags

  flags.DEFINE_string(
    "coordinator", None, "Host:port of process 0; SLURM and TPU pods need none of these.", flag_values=values
  )
  flags.DEFINE_integer("num_processes", None, "How many processes there are.", flag_values=values)
  flags.DEFINE_integer("process_id", None, "Which of the processes this is, from 0.", flag_values=values)


def join(values: Any) -> None:
  """Joins the processes that those flags, or the environment, tell of; if one of them leaves, all do."""
  processes.initialize(values.coordinator, values.num_processes, values.process_id)
  if not faulthandler.is_enabled():
    faulthandler.enable()  # JAX aborts where process 0 is gone: with the stacks of what waits


@contextlib.contextmanager
def reporting() -> Iterator[None]:
  """Ends the process with one sentence where our own checks or the system refuse, and silently on Ctrl-C.

  Of several processes one that fails, or is stopped where no loop heeds it, takes the others with it. Warnings become a
  sentence each, of the first process alone; what libraries log is left out, for they also raise what they log as an
  error.
  """
  from absl import logging

  logging.set_verbosity(logging.FATAL)
  with warnings.catch_warnings():
    warnings.showwarning = _show_warning
    try:
      yield
    except KeyboardInterrupt:
      _end(Stopped(signal.SIGINT))
    except Stopped as stop:
      _end(stop)
    except Exception as error:
      ours = isinstance(error, OSError) or (isinstance(error, _SENTENCES) and _raised_by_us(error))
      if not jax.distributed.is_initialized():
        if not ours:
          raise
        sys.exit(f"error: {_sentence(error)}")
      _end_all(error, ours)


def _end(stop):
  if jax.distributed.is_initialized():
    _be_deaf()
    exit_reasons.leave(stop.code, stop.reason)
  sys.exit(stop.code)


def _end_all(error, ours):
  """Ends a process of several by an error. One that is not ours may come of another's end, which it hears of first."""
  _be_deaf()
  sentence = _sentence(error)
  say = lambda: print(f"error: {sentence}", file=sys.stderr)
  if ours:
    exit_reasons.leave(1, f"has failed: {sentence}", say=say)
  exit_reasons.hear()
  if isinstance(error, jax.errors.JaxRuntimeError) and _DISCONNECTED.search(str(error)):
    sentence = f"another process of the run is gone; {_AGAIN} ({sentence})"
    exit_reasons.leave(exit_reasons.GONE_ON, f"misses another; {_AGAIN}", say=say)
  exit_reasons.leave(1, f"has failed: {sentence}", say=lambda: traceback.print_exception(error))


def _be_deaf():
  """Takes no more signals: this process is on its way out, in a few seconds at most."""
  if threading.current_thread() is threading.main_thread():
    for number in (signal.SIGINT, signal.SIGTERM):
      signal.signal(number, signal.SIG_IGN)


def _show_warning(message, *where):
  if exit_reasons.is_first():
    with contextlib.suppress(BrokenPipeError):
      print(f"warning: {_sentence(message)}", file=sys.stderr)


def parse(argv: list[str], values: Any = None) -> list[str]:
  """Parses `argv` into absl flags, by default the global ones, or ends the process with one sentence."""
  from absl import flags

  try:
    rest = (flags.FLAGS if values is None else values)(argv)
  except flags.Error as error:
    reason = _sentence(error)
    for python, expected in _EXPECTED.items():
      reason = re.sub(python, expected, reason)
    sys.exit(f"error: {reason}")
  except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    # config_flags reads the file and applies the overrides while it parses
    reason = _sentence(error)  # of a missing key it is the key in quotes, and maybe the nearest
    key, near = re.match(r"'([^']*)'", reason), re.search(r'Did you mean "([^"]*)"', reason)
    if not key:
      sys.exit(f"error: in the flags for a config: {reason}")
    given = next((arg.split("=")[0] for arg in argv if re.match(rf"--.*\.{re.escape(key[1])}(\.|=|$)", arg)), key[1])
    hint = f" Did you mean {near[1]!r}?" if near else ""
    sys.exit(f"error: the config has no key {key[1]!r}, which {given} names.{hint} The config's file shows its keys.")
  if len(rest) > 1:
    sys.exit(f"error: {rest[1]!r} is no flag; flags look like --name=value.")
  return rest


def _raised_by_us(error: BaseException) -> bool:
  frames = traceback.extract_tb(error.__traceback__)
  last = pathlib.Path(frames[-1].filename) if frames else pathlib.Path()
  return _PACKAGE in last.parents or last.name in ("train.py", "sample.py")


def _sentence(error: Any) -> str:
  while isinstance(error, KeyError | AttributeError) and error.args:
    error = error.args[0]  # the text of a KeyError is the repr of its reason
  text = " ".join(str(error).split()) or type(error).__name__
  return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
