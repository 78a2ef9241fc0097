"""What the scripts share: a user's mistake prints one sentence and exits non-zero, our bug a traceback."""

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

MAX_CHARACTERS = 2000
"""Maximum characters of an error to print: some repeat the input, however long."""
_USER_ERRORS = (ValueError, ImportError, FloatingPointError, MemoryError, OSError)
"""Errors that say what is wrong and how to fix it when our own code raises them."""
_DISCONNECTED = re.compile("gloo|nccl|connection|heartbeat|coordination|UNAVAILABLE|DEADLINE_EXCEEDED", re.IGNORECASE)
"""Matches errors of collectives whose other end has disconnected."""
_RESUME = "run the same command to resume from the last checkpoint."
_PACKAGE = pathlib.Path(__file__).parents[1]
_EXPECTED = {
  r"invalid literal for int\(\).*": "expected a whole number",
  "could not convert string to float.*": "expected a number",
  r"\('Non-boolean argument.*": "expected true or false",
  r"\. Did you mean: (.*) \?$": r" (did you mean \1?)",
}
"""What Python says of text it cannot convert, and absl of unknown flags, and the replacements."""


def run(main: Callable[[], None]) -> None:
  """Parses absl's flags, joins the run's other processes and runs `main`, reporting errors as `reporting` does.

  Ctrl-C and SIGTERM end it at once, unless `main` handles them itself.
  """
  from absl import app, flags

  def joined(argv):
    join(flags.FLAGS)
    main()

  define_processes(flags.FLAGS)
  with reporting(), StopRequest(patience=2.0, interrupt=True):
    app.run(joined, flags_parser=parse)


def define_processes(values: Any) -> None:
  """Defines the flags for runs with several processes, common to all scripts that use devices."""
  from absl import flags

  flags.DEFINE_string(
    "coordinator", None, "Host:port of process 0; not needed on SLURM and TPU pods.", flag_values=values
  )
  flags.DEFINE_integer("num_processes", None, "Number of processes.", flag_values=values)
  flags.DEFINE_integer("process_id", None, "Index of this process, from 0.", flag_values=values)


def join(values: Any) -> None:
  """Joins the processes given by those flags or the environment; if one of them exits, all do."""
  processes.initialize(values.coordinator, values.num_processes, values.process_id)
  if not faulthandler.is_enabled():
    faulthandler.enable()  # JAX aborts when process 0 has exited: this prints the stacks


@contextlib.contextmanager
def reporting() -> Iterator[None]:
  """Ends the process with one sentence on errors from our own checks or the system, and silently on Ctrl-C.

  With several processes, one that fails, or is stopped outside a loop that handles it, ends the others too. Warnings
  are printed as one sentence each, by process 0 only. Libraries' logs are suppressed: they raise the errors they log.
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
      ours = isinstance(error, OSError) or (isinstance(error, _USER_ERRORS) and _raised_by_us(error))
      if not jax.distributed.is_initialized():
        if not ours:
          raise
        sys.exit(f"error: {_sentence(error)}")
      _end_all(error, ours)


def _end(stop):
  if jax.distributed.is_initialized():
    _ignore_signals()
    exit_reasons.exit_all(stop.code, stop.reason)
  sys.exit(stop.code)


def _end_all(error, ours):
  """Ends all processes after an error; if it is not ours, waits first for the reason of another's exit, if any."""
  _ignore_signals()
  sentence = _sentence(error)
  say = lambda: print(f"error: {sentence}", file=sys.stderr)
  if ours:
    exit_reasons.exit_all(1, f"has failed: {sentence}", say=say)
  exit_reasons.wait_for_reason()
  if isinstance(error, jax.errors.JaxRuntimeError) and _DISCONNECTED.search(str(error)):
    sentence = f"lost connection to another process of the run ({sentence}); {_RESUME}"
    exit_reasons.exit_all(exit_reasons.RESUMABLE, f"lost connection to another; {_RESUME}", say=say)
  exit_reasons.exit_all(1, f"has failed: {sentence}", say=lambda: traceback.print_exception(error))


def _ignore_signals():
  """Ignores further signals: this process exits within a few seconds."""
  if threading.current_thread() is threading.main_thread():
    for number in (signal.SIGINT, signal.SIGTERM):
      signal.signal(number, signal.SIG_IGN)


def _show_warning(message, *where):
  if exit_reasons.is_first():
    with contextlib.suppress(BrokenPipeError):
      print(f"warning: {_sentence(message)}", file=sys.stderr)


def parse(argv: list[str], values: Any = None) -> list[str]:
  """Parses `argv` into absl flags, by default the global ones; exits with one sentence if they are wrong."""
  from absl import flags

  try:
    rest = (flags.FLAGS if values is None else values)(argv)
  except flags.Error as error:
    reason = _sentence(error)
    for python, expected in _EXPECTED.items():
      reason = re.sub(python, expected, reason)
    sys.exit(f"error: {_with_remedy(reason)}")
  except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    # config_flags reads the file and applies the overrides while it parses
    reason = _sentence(error)  # for a missing key: the key in quotes, and maybe the nearest one
    key, near = re.match(r"'([^']*)'", reason), re.search(r'Did you mean "([^"]*)"', reason)
    if not key:
      sys.exit(f"error: in the config flags: {_with_remedy(reason)}")
    given = next((arg.split("=")[0] for arg in argv if re.match(rf"--.*\.{re.escape(key[1])}(\.|=|$)", arg)), key[1])
    hint = f" (did you mean {near[1]!r}?)" if near else ""
    sys.exit(f"error: the config has no key {key[1]!r}, which {given} names{hint}; see its keys in the config file.")
  if len(rest) > 1:
    sys.exit(f"error: {rest[1]!r} is not a flag; write flags as --name=value.")
  return rest


def _with_remedy(reason: str) -> str:
  """The reason itself if it is a sentence of ours, which has a remedy."""
  return reason if reason.endswith(".") else f"{reason}; correct it."


def _raised_by_us(error: BaseException) -> bool:
  frames = traceback.extract_tb(error.__traceback__)
  last = pathlib.Path(frames[-1].filename) if frames else pathlib.Path()
  return _PACKAGE in last.parents or last.name in ("train.py", "sample.py")


def _sentence(error: Any) -> str:
  while isinstance(error, KeyError | AttributeError) and error.args:
    error = error.args[0]  # the text of a KeyError is the repr of its reason
  text = " ".join(str(error).split()) or type(error).__name__
  return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}..."
