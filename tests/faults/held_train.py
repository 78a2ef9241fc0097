"""train.py that is held up in one phase, where it is deaf to Python's signal handlers, as in a long compilation.

python held_train.py PHASE SECONDS PATIENCE --config=... --workdir=...
"""

import os
import pathlib
import runpy
import signal
import sys
import threading
import time

from diffjax import build, parallel
from diffjax import run as runs
from diffjax.training import loop
from diffjax.training.checkpoints import Checkpoints

TRAIN = pathlib.Path(__file__).parents[2] / "train.py"


def hold(seconds):
  """Waits in a system call that signals do not interrupt, so that Python gets no turn on the main thread."""
  print("held", flush=True)
  if threading.current_thread() is not threading.main_thread():
    return time.sleep(seconds)
  reading, writing = os.pipe()
  for signum in (signal.SIGINT, signal.SIGTERM):
    signal.siginterrupt(signum, False)
  timer = threading.Timer(seconds, os.write, (writing, b"."))
  timer.daemon = True
  timer.start()
  os.read(reading, 1)


def holding(function, seconds, at=1):
  """`function`, held up before its call number `at`."""
  calls = []

  def held(*args, **kwargs):
    calls.append(1)
    if len(calls) == at:
      hold(seconds)
    return function(*args, **kwargs)

  return held


def main():
  phase, seconds, patience = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
  del sys.argv[1:4]
  loop.StopRequest.__init__.__defaults__ = (patience,)
  pmap, objective = parallel.pmap, build.held_out_objective
  match phase:
    case "start":
      build.initial_state = holding(build.initial_state, seconds)
    case "compile":
      parallel.pmap = lambda fun, donate_argnums=(): holding(pmap(fun, donate_argnums), seconds)
    case "step":
      parallel.pmap = lambda fun, donate_argnums=(): holding(pmap(fun, donate_argnums), seconds, at=5)
    case "evaluation":
      build.held_out_objective = lambda *args: holding(objective(*args), seconds)
    case "sampling":
      runs.preview = holding(runs.preview, seconds)
    case "save":
      Checkpoints._write_checksums = holding(Checkpoints._write_checksums, seconds)
  sys.argv[0] = str(TRAIN)
  runpy.run_path(str(TRAIN), run_name="__main__")


if __name__ == "__main__":
  main()
