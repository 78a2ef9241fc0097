"""train.py that also records which examples each step was given, as lines [step, ids] of a file.

python recorded_train.py RECORD --config=... --workdir=...
"""

import json
import pathlib
import runpy
import sys

import jax

from diffjax.cluster import devices

TRAIN = pathlib.Path(__file__).parents[3] / "train.py"


def main():
  pmap, path = devices.pmap, pathlib.Path(sys.argv.pop(1))
  with path.open("a") as file:
    file.write("\n")  # a process that was killed may have left half a line

  def recording(fun, donate_argnums=()):
    mapped = pmap(fun, donate_argnums)

    def recorded(state, data, batches, num, key):
      first, count = int(devices.unreplicate(state.step)), int(devices.unreplicate(num))
      ids = devices.unshard(batches["id"], axis=1)
      state, metrics = jax.block_until_ready(mapped(state, data, batches, num, key))
      with path.open("a") as file:
        file.writelines(json.dumps([first + i, ids[i].tolist()]) + "\n" for i in range(count))
      return state, metrics

    return recorded if donate_argnums else mapped

  devices.pmap = recording
  sys.argv[0] = str(TRAIN)
  runpy.run_path(str(TRAIN), run_name="__main__")


if __name__ == "__main__":
  main()
