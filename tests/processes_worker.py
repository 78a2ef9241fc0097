"""One of several processes on this machine that share a run: trains, draws, and saves what it sees of that.

python processes_worker.py '{"workdir": ..., "out": ..., ...}' COORDINATOR NUM_PROCESSES PROCESS_ID

The first argument holds, as JSON, "workdir", "out" (what it sees goes to OUT.PROCESS_ID.npz), "data_dir", and maybe
"clip" (train one), "like" (a folder with the run's config), "config" (keys of the config), "stop_after" (calls of the
step until SIGTERM), "draw" (so many pictures), "prompt" (of them), "damage" (which file of a copy of the newest
checkpoint, not 0). Without "workdir" it only joins the others, within "timeout" seconds.
"""

import os
import sys

os.environ["NPROC"] = "32"  # threads for the devices, as in devices_worker.py

import json
import pathlib
import shutil
import signal

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import tiny_clip_config
import tiny_config

from diffjax import from_config, runs
from diffjax.cluster import devices, layouts, processes, signals
from diffjax.cluster.command_line import reporting
from diffjax.runs import Run, checkpoints, checksums, phases
from train import train

signals.PATIENCE = 600  # seconds, for on a busy machine all of them take long to agree


def main(asked):
  if "like" in asked:
    config = runs.read_config(asked["like"])
  else:
    config = (tiny_clip_config if asked.get("clip") else tiny_config).get_config()
  config.data.data_dir = asked["data_dir"]
  config.update_from_flattened_dict(asked.get("config", {}))
  seen = {}
  stopped = False
  frozen = runs.load_frozen(config, asked["workdir"])
  try:
    with phases.hooked(watching(from_config.layout(config, frozen), seen, asked.get("stop_after"))):
      state = train(config, asked["workdir"])
    seen |= {f"state{i}": leaf for i, leaf in enumerate(jax.tree.leaves(devices.whole(state)))}
  except SystemExit as stop:
    stopped = stop.code == 128 + signal.SIGTERM
    if not stopped:
      raise
  if config.parallel == "fsdp" and not stopped:
    seen["returned_bytes"] = bytes_held(state)
  if asked.get("damage"):
    seen |= read_damaged(pathlib.Path(asked["workdir"]), state, asked["damage"])
  if asked.get("draw") and not stopped:
    classes = config.model.get("num_classes")
    labels = np.arange(asked["draw"]) % classes if classes else None
    model = layouts.LAYOUTS[config.parallel].spread(state.ema[0])
    seen["model_bytes"] = bytes_held(model)
    run = Run(config, model if config.parallel == "fsdp" else state.ema[0], 0, frozen)
    options = dict(labels=labels, prompt=asked.get("prompt"), batch_size=8, trajectory=True)
    seen["drawn"], seen["path"] = run.draw(asked["draw"], **options)
  np.savez(f"{asked['out']}.{processes.process()['process_index']}.npz", devices=jax.device_count(), **seen)


def bytes_held(tree):
  """Bytes of arrays that the first device of this process holds."""
  return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def read_damaged(workdir, state, nth):
  """Which files this process checks when all read the newest checkpoint, and the error once the nth is cut to nothing.

  Files count in the order of checksums.json, of a copy of the checkpoint.
  """
  folder, names, checksum = workdir.with_name("damaged"), [], checksums.checksum
  processes.from_first(lambda: str(shutil.copytree(workdir / runs.CHECKPOINTS, folder)))
  checksums.checksum = lambda path: names.append(str(path)) or checksum(path)
  reader = checkpoints.Checkpoints(folder, read_only=True)
  reader.restore_newest(state)
  seen = {"checked": list(names)}
  newest = folder / str(reader.steps()[-1])
  damaged = newest / list(json.loads((newest / checksums.FILE).read_text()))[nth]
  processes.from_first(lambda: damaged.write_bytes(b""))
  try:
    reader.restore(int(newest.name), state)
  except checkpoints.DamagedCheckpoint as error:
    seen |= {"damaged": str(damaged.relative_to(newest)), "error": str(error)}
  reader.close()
  return seen


def watching(layout, seen, stop_after):
  """A hook that notes the state of the first call, the ids of every call's examples, and the bytes on a device."""
  calls = []

  def hook(phase, *details):
    if phase != "step":
      return
    _, num, state, batches = details
    if not calls:
      first = jax.tree.leaves(devices.whole(layout.snapshot(state)))
      seen.update({f"start{i}": leaf for i, leaf in enumerate(first)} | {"bytes": bytes_held(state)})
    ids = batches["id" if "id" in batches else "index"]
    seen[f"ids{len(calls)}"], seen[f"index{len(calls)}"] = (
      own_columns(layout, a)[:num] for a in (ids, batches["index"])
    )
    calls.append(num)
    if len(calls) == stop_after:
      os.kill(os.getpid(), signal.SIGTERM)

  return hook


def own_columns(layout, a):
  """What this process holds of batches, [K, b]."""
  shards = sorted(a.addressable_shards, key=lambda shard: shard.device.id)
  parts = [np.asarray(shard.data) for shard in shards]
  return np.concatenate([part[0] for part in parts] if isinstance(layout, layouts.Replicated) else parts, axis=1)


if __name__ == "__main__":
  asked, (coordinator, num_processes, process_id) = json.loads(sys.argv[1]), sys.argv[2:]
  with reporting():
    if int(num_processes) > 1:
      processes.initialize(coordinator, int(num_processes), int(process_id), timeout=asked.get("timeout", 60))
    if "workdir" in asked:
      main(asked)
