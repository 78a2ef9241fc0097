"""What the scripts share: a user's mistake is one sentence and a non-zero exit, a bug of ours stays a traceback."""

import contextlib
import pathlib
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

_PACKAGE = pathlib.Path(__file__).parent
_EXPECTED = {
  r"invalid literal for int\(\).*": "expected a whole number",
  "could not convert string to float.*": "expected a number",
  r"\('Non-boolean argument.*": "expected true or false",
}
"""What was expected, for what Python says of text that it cannot convert."""


def run(main: Callable[[], None]) -> None:
  """Parses absl's flags and runs `main`, reporting errors as `reporting` does; Ctrl-C and SIGTERM end it at once."""
  from absl import app

  from diffjax.training.loop import StopRequest

  with reporting(), StopRequest(patience=2.0, leave=True):
    app.run(lambda argv: main(), flags_parser=parse)


@contextlib.contextmanager
def reporting() -> Iterator[None]:
  """Ends the process with one sentence where our own checks or the system refuse, and silently on Ctrl-C.

  Warnings become a sentence each; what libraries log is left out, for they also raise what they log as an error.
  """
  from absl import logging

  logging.set_verbosity(logging.FATAL)
  with warnings.catch_warnings():
    warnings.showwarning = lambda message, *where: print(f"warning: {_sentence(message)}", file=sys.stderr)
    try:
      yield
    except (ValueError, ImportError, FloatingPointError, OSError) as error:
      if not (isinstance(error, OSError) or _raised_by_us(error)):
        raise
      sys.exit(f"error: {_sentence(error)}")
    except KeyboardInterrupt:
      sys.exit(128 + signal.SIGINT)


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
    what = "the config has no key" if reason.startswith("'") else "in the flags for a config:"
    sys.exit(f"error: {what} {reason}")
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
  return " ".join(str(error).split()) or type(error).__name__
