"""What the scripts share: a user's mistake is one sentence and a non-zero exit, a bug of ours stays a traceback."""

import pathlib
import sys
import traceback
from collections.abc import Callable

_PACKAGE = pathlib.Path(__file__).parent


def run(main: Callable[[], None]) -> None:
  """Parses absl flags and runs `main`; errors that our own checks raised, and the system's, become one sentence."""
  from absl import app, logging

  logging.set_verbosity(logging.WARNING)  # orbax and TFDS tell of each step they take
  try:
    app.run(lambda argv: main(), flags_parser=_parse)
  except (ValueError, TypeError, AttributeError, KeyError, ImportError, FloatingPointError, OSError) as error:
    if not (isinstance(error, OSError) or _raised_by_us(error)):
      raise
    sys.exit(f"error: {_sentence(error)}")


def _parse(argv):
  from absl import flags

  try:
    rest = flags.FLAGS(argv)
  except flags.Error as error:
    sys.exit(f"error: {_sentence(error)}")
  except FileNotFoundError as error:
    sys.exit(f"error: there is no config file {error.filename}; see the folder configs/.")
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    # config_flags applies the overrides while it parses
    sys.exit(f"error: in the flags for --config: {_sentence(error)}")
  if len(rest) > 1:
    sys.exit(f"error: {rest[1]!r} is not a flag; flags look like --name=value.")
  return rest


def _raised_by_us(error: BaseException) -> bool:
  frames = traceback.extract_tb(error.__traceback__)
  last = pathlib.Path(frames[-1].filename) if frames else pathlib.Path()
  return _PACKAGE in last.parents or last.name in ("train.py", "sample.py")


def _sentence(error: BaseException) -> str:
  text = error.args[0] if isinstance(error, KeyError) and error.args else error
  return " ".join(str(text).split()) or type(error).__name__
