"""Run in a process of its own, which alone decides how many devices there are: trains, draws, and saves what came out.

python devices_worker.py DATA_DIR OUT.npz CACHE
"""

import os
import sys

os.environ["NPROC"] = "32"  # threads for the devices; with fewer than devices, collectives wait for each other for ever

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import tiny_config

from diffjax import data, from_config
from diffjax.cluster import devices
from diffjax.runs import Run
from diffjax.training.step import TrainStep, init_state
from train import train


def main(data_dir, out, cache):
  jax.config.update("jax_compilation_cache_dir", cache)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  config = tiny_config.get_config()
  config.data.update(data_dir=data_dir, flip=True)
  config.model.update(num_classes=10, dropout=0.1)
  config.train.update(label_dropout=0.2)
  workdir = pathlib.Path(out).with_suffix("")
  state = train(config, workdir)
  found = {f"param{i}": leaf for i, leaf in enumerate(jax.tree.leaves((state.params, state.ema)))}
  run = Run(config, state.ema[0], 0)
  for size in (24, 7):
    drawn, path = run.draw(24, batch_size=size, labels=np.arange(24) % 10, sampler="euler", eta=1.0, trajectory=True)
    found |= {f"drawn{size}": drawn, f"path{size}": path}
  found["metrics"] = np.array([len(jax.devices())])
  found |= nan_on_one_device()
  if len(jax.devices()) > 1:  # what one device does then, the tests of runs see
    found |= nan_in_a_row(config, workdir)
  np.savez(out, **found)


def nan_on_one_device():
  """One example of the global batch is NaN: every device must skip that update, and only that."""
  import optax

  losses = lambda params, batch: jnp.square(params["w"] - batch["x"])
  objective = jax.tree_util.Partial(lambda params, batch, key, frozen, axis_name: (losses(params, batch), {}))
  step = TrainStep(objective, (0.5,), optax.adam(0.1))
  state = devices.replicate(init_state({"w": jnp.ones(())}, step.optimizer, 1))
  key = devices.replicate(jax.random.key(0))
  run = devices.pmap(lambda state, batch, key: step(state, batch, key, axis_name=devices.AXIS), donate_argnums=(0,))
  x = np.linspace(2, 3, 16, dtype=np.float32)
  bad = x.copy()
  bad[11] = np.nan
  seen = {}
  for i, values in enumerate((x, bad, x)):
    former = state
    state, _ = run(state, devices.shard({"x": values, "index": np.arange(16)}), key)
    assert former.params["w"].is_deleted()  # its memory was given to the new state
    seen[f"nan_w{i}"] = np.array(state.params["w"])  # a copy: a view would keep the buffer from being donated
    rest = (state.params, state.opt_state, state.ema)
    seen[f"nan_rest{i}"] = np.stack([np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(rest)])
  return seen | {"nan_skipped": np.asarray(state.skipped)}


class BadBatches:
  """The batches that train.py draws, those of the steps [first, stop) marked as bad."""

  def __init__(self, batches, first, stop):
    self._batches, self._bad = batches, range(first, stop)
    self.get_state, self.set_state = batches.get_state, batches.set_state

  def __next__(self):
    k = self._batches.get_state()["next_index"]
    batch = next(self._batches)
    return batch | {"bad": np.full(len(batch["index"]), k in self._bad)}


def nan_in_a_row(config, workdir):
  """The loss of one example, so on one device, is NaN at some steps of a run by train.py: at 3, and at 3 to the end."""
  train_step, id_batches = from_config.train_step, data.id_batches

  def poisoned(config):
    step = train_step(config)
    poison = lambda batch: jnp.where(batch["bad"] & (batch["index"] == 11), jnp.nan, 1.0)

    def objective(params, batch, *args, **kwargs):
      losses, metrics = step.objective(params, {name: batch[name] for name in batch if name != "bad"}, *args, **kwargs)
      return losses * poison(batch), metrics

    return step.replace(objective=objective)

  from_config.train_step = poisoned
  config.train.update(max_skipped_in_row=3, checkpoint_every=2)
  found = {}
  for name, (first, stop) in {"two": (3, 5), "all": (3, 8)}.items():
    data.id_batches = lambda *args, first=first, stop=stop, **kwargs: BadBatches(
      id_batches(*args, **kwargs), first, stop
    )
    try:
      state = train(config, workdir.with_name(f"{workdir.name}_{name}"))
      found[f"nan_in_a_row_{name}"] = np.array([state.step, state.skipped, state.skipped_in_row])
    except FloatingPointError as error:
      found[f"nan_in_a_row_{name}"] = np.array(str(error))
  return found


if __name__ == "__main__":
  main(*sys.argv[1:])
