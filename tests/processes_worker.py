"""One of several processes on this machine that share a run: trains, draws, and saves what it sees of that.

python processes_worker.py '{"workdir": ..., "out": ..., ...}' COORDINATOR NUM_PROCESSES PROCESS_ID

The first argument holds, as JSON, "workdir", "out" (what it sees goes to OUT.PROCESS_ID.npz), "data_dir", and maybe
"clip" (train one), "config" (keys of the config), "stop_after" (calls of the step until SIGTERM), "draw" (so many
pictures). Without "workdir" it only joins the others, within "timeout" seconds.
"""

import os
import sys

os.environ["NPROC"] = "32"  # threads for the devices, as in devices_worker.py

import json
import pathlib
import signal

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import tiny_clip_config
import tiny_config

from diffjax import from_config
from diffjax.cluster import layouts, parallel, signals
from diffjax.cluster.command_line import reporting
from diffjax.runs import Run
from train import train

signals.StopRequest.__init__.__defaults__ = (600,)  # seconds, for on a busy machine all of them take long to agree


def main(asked):
  config = (tiny_clip_config if asked.get("clip") else tiny_config).get_config()
  config.data.data_dir = asked["data_dir"]
  config.update_from_flattened_dict(asked.get("config", {}))
  seen = {}
  watch(from_config.LAYOUTS[config.parallel], seen, asked.get("stop_after"))
  stopped = False
  try:
    state = train(config, asked["workdir"])
    seen |= {f"state{i}": leaf for i, leaf in enumerate(jax.tree.leaves(state))}
  except SystemExit as stop:
    stopped = stop.code == 128 + signal.SIGTERM
    if not stopped:
      raise
  if asked.get("draw") and not stopped:
    labels = np.arange(asked["draw"]) % config.model.num_classes if config.model.num_classes else None
    model = from_config.LAYOUTS[config.parallel].spread(state.ema[0])
    seen["model_bytes"] = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(model))
    run = Run(config, model if config.parallel == "fsdp" else state.ema[0], 0)
    seen["drawn"], seen["path"] = run.draw(asked["draw"], labels=labels, batch_size=8, trajectory=True)
  np.savez(f"{asked['out']}.{parallel.process()['process_index']}.npz", devices=jax.device_count(), **seen)


def watch(layout, seen, stop_after):
  """Notes the state of the first call, the ids of the examples of every call, and the bytes that a device holds."""
  compile_step, calls = layout.compile, []

  def compile_watched(self, step):
    compiled = compile_step(self, step)

    def watched(state, resident, batches, num, key):
      if not calls:
        seen.update({f"start{i}": leaf for i, leaf in enumerate(jax.tree.leaves(parallel.whole(self.snapshot(state))))})
        seen["bytes"] = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
      count = int(np.asarray(self.fetch(num)))
      seen[f"ids{len(calls)}"], seen[f"index{len(calls)}"] = (
        own_columns(self, batches[name if name in batches else "index"])[:count] for name in ("id", "index")
      )
      calls.append(count)
      if len(calls) == stop_after:
        os.kill(os.getpid(), signal.SIGTERM)
      return compiled(state, resident, batches, num, key)

    return watched

  layout.compile = compile_watched


def own_columns(layout, a):
  """What this process holds of batches, [K, b]."""
  shards = sorted(a.addressable_shards, key=lambda shard: shard.device.id)
  parts = [np.asarray(shard.data) for shard in shards]
  return np.concatenate([part[0] for part in parts] if isinstance(layout, layouts.Replicated) else parts, axis=1)


if __name__ == "__main__":
  asked, (coordinator, num_processes, process_id) = json.loads(sys.argv[1]), sys.argv[2:]
  with reporting():
    if int(num_processes) > 1:
      parallel.initialize(coordinator, int(num_processes), int(process_id), timeout=asked.get("timeout", 60))
    if "workdir" in asked:
      main(asked)
