"""train.py that also records which examples each step was given, as lines [step, ids] of a file.

python recorded_train.py RECORD --config=... --workdir=...
"""

import json
import pathlib
import runpy
import sys

from diffjax.cluster import devices
from diffjax.runs import phases

TRAIN = pathlib.Path(__file__).parents[3] / "train.py"


def main():
  path = pathlib.Path(sys.argv.pop(1))
  with path.open("a") as file:
    file.write("\n")  # a killed process may have left half a line

  def record(phase, *details):
    if phase != "step":
      return
    first, num, _, batches = details
    ids = devices.unshard(batches["id"], axis=1)[:num]
    with path.open("a") as file:
      file.writelines(json.dumps([first + i, row.tolist()]) + "\n" for i, row in enumerate(ids))

  sys.argv[0] = str(TRAIN)
  with phases.hooked(record):
    runpy.run_path(str(TRAIN), run_name="__main__")


if __name__ == "__main__":
  main()
