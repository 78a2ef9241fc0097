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

from diffjax.cluster import processes, signals
from diffjax.runs import phases

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


AT = {"compile": ("step", 1), "step": ("step", 5), "sampling": ("preview", 1)}
"""The hook of a phase that is not named like it, and the number of the call that is held."""


def main():
  phase, seconds, patience, *stuck_after = itertools.takewhile(lambda given: not given.startswith("--"), sys.argv[1:])
  del sys.argv[1 : 4 + len(stuck_after)]
  phase, _, index = phase.partition("@")
  phase = phase if not index or f"--process_id={index}" in sys.argv else None
  seconds = seconds if seconds in FAILURES else float(seconds)
  signals.PATIENCE = float(patience)
  if stuck_after:
    processes.STUCK_AFTER = int(stuck_after[0])
  at, number = AT.get(phase, (phase, 1))
  calls = itertools.count(1)

  def hook(reached, *details):
    if reached == at and next(calls) == number:
      hold(seconds)

  sys.argv[0] = str(TRAIN)
  with phases.hooked(hook):
    runpy.run_path(str(TRAIN), run_name="__main__")


if __name__ == "__main__":
  main()
