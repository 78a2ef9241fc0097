"""train.py, except that process 1 cannot read the states of checkpoints.

python half_blind_train.py --process_id=... --config=... --workdir=...
"""

import pathlib
import runpy
import sys

import orbax.checkpoint as ocp

TRAIN = pathlib.Path(__file__).parents[3] / "train.py"


def main():
  restore = ocp.Checkpointer.restore

  def half_blind(self, path, **options):
    if "state" in options["args"].keys() and "--process_id=1" in sys.argv:
      raise OSError("the disk is on fire")
    return restore(self, path, **options)

  ocp.Checkpointer.restore = half_blind
  sys.argv[0] = str(TRAIN)
  runpy.run_path(str(TRAIN), run_name="__main__")


if __name__ == "__main__":
  main()
