"""train.py, held up in one phase in which Python's signal handlers cannot run, as in a long compilation.

python held_train.py PHASE SECONDS PATIENCE [STUCK_AFTER] --config=... --workdir=...

PHASE may be "PHASE@INDEX", for one process only. SECONDS is how long, or "fail" or "bug" to fail there instead.
"""

import itertools
import os
import pathlib
import runpy
import signal
import sys
import threading
import time

from diffjax import from_config, runs
from diffjax.cluster import devices, processes, signals, watchdog
from diffjax.runs import checkpoints

FAILURES = {"fail": OSError("the disk is on fire"), "bug": TypeError("this is a bug")}
TRAIN = pathlib.Path(__file__).parents[3] / "train.py"


def hold(seconds):
  """Waits in a system call that signals do not interrupt, so that Python code cannot run on the main thread."""
  print("held", flush=True)
  if seconds in FAILURES:
    raise FAILURES[seconds]
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
  phase, seconds, patience, *stuck_after = itertools.takewhile(lambda given: not given.startswith("--"), sys.argv[1:])
  del sys.argv[1 : 4 + len(stuck_after)]
  phase, _, index = phase.partition("@")
  phase = phase if not index or f"--process_id={index}" in sys.argv else None
  seconds, patience = seconds if seconds in FAILURES else float(seconds), float(patience)
  signals.StopRequest.__init__.__defaults__ = (patience,)
  if stuck_after:
    processes.STUCK_AFTER = int(stuck_after[0])
    watchdog.Watchdog.__init__.__defaults__ = (processes.STUCK_AFTER,)
  pmap, objective = devices.pmap, from_config.held_out_objective
  match phase:
    case "data":
      runs.load_data = holding(runs.load_data, seconds)
    case "start":
      from_config.initial_state = holding(from_config.initial_state, seconds)
    case "compile":
      devices.pmap = lambda fun, donate_argnums=(): holding(pmap(fun, donate_argnums), seconds)
    case "step":
      devices.pmap = lambda fun, donate_argnums=(): holding(pmap(fun, donate_argnums), seconds, at=5)
    case "evaluation":
      from_config.held_out_objective = lambda *args: holding(objective(*args), seconds)
    case "sampling":
      runs.preview = holding(runs.preview, seconds)
    case "save":
      checkpoints._checksum = holding(checkpoints._checksum, seconds)
  sys.argv[0] = str(TRAIN)
  runpy.run_path(str(TRAIN), run_name="__main__")


if __name__ == "__main__":
  main()
