"""Trains a diffusion model.

  python train.py --config=configs/digits.py --workdir=runs/digits [--config.train.steps=500 ...]

The same command goes on with a run that was stopped. Ctrl-C or SIGTERM saves and exits with 128 + the signal's number.
"""

import functools
import itertools
import pathlib
import sys
import time

import jax
import numpy as np
from absl import flags

from diffjax import build, compilation, data, parallel, plots
from diffjax import run as runs
from diffjax.command_line import run as run_script
from diffjax.training.checkpoints import Checkpoints
from diffjax.training.loop import StopRequest, calls, stack_batches
from diffjax.training.report import Report
from diffjax.training.step import TrainState, several_steps

HELD_OUT, PREVIEW = 512, 64
"""How many held-out pictures a checkpoint is judged on, and how many a preview draws."""


def train(config, workdir: str | pathlib.Path) -> TrainState:
  """Trains what a config says, in a folder, or goes on with the run that is there.

  Args:
    config: a ConfigDict, `build.default_config()` filled in.
    workdir: gets config.json, metrics.jsonl, loss.png, checkpoints/, best/ and samples/.

  Returns:
    The last state, as NumPy arrays.

  Raises:
    ValueError: a config that cannot work, or differs from the run's in the folder.
    FloatingPointError: when train.max_skipped_in_row updates in a row were not finite.
    SystemExit: after a stop by signal, when all is saved.
  """
  workdir, spec = pathlib.Path(workdir), config.train

  # What to train: every error in the config shows here, before anything is written
  parallel.check_batch_size(spec.batch_size, spec.accumulate)
  build.check(config)
  train_step = build.train_step(config)
  state = jax.eval_shape(lambda: build.initial_state(config))
  source = runs.load_data(config, "train")
  held_out = held_out_batch(config)

  # The folder, and where the run stands
  runs.claim(workdir, config)
  newest = Checkpoints(workdir / runs.CHECKPOINTS, spec.keep_checkpoints)
  best = Checkpoints(workdir / runs.BEST, 1, best=True)
  found = newest.restore_newest(state, discard_damaged=True)
  state, saved = found or (compilation.jit(lambda: build.initial_state(config))(), None)
  start = int(state.step)
  num_params = sum(p.size for p in jax.tree.leaves(state.params))
  print(f"{num_params:,} parameters, {len(source):,} pictures, {parallel.local_device_count()} device(s); all goes to {workdir}")
  if start:
    print(f"going on from step {start}" if start < spec.steps else f"the run is complete: {start} steps are done")

  # Data: ids of examples that live on the devices, or the examples themselves
  if config.data.in_memory:
    resident = parallel.replicate(data.in_memory(source))
    batches = data.id_batches(len(source), spec.batch_size, spec.seed, **parallel.process())
  else:
    resident = parallel.replicate({})
    batches = data.batches(source, spec.batch_size, spec.seed, **parallel.process())
  if saved:
    batches.set_state(saved["data"])
  every = (spec.log_every, spec.checkpoint_every, spec.sample_every)

  def feed():
    for num in calls(start, spec.steps, spec.steps_per_call, every):
      stacked = parallel.shard(stack_batches(batches, num, spec.steps_per_call), axis=1)
      yield num, stacked, batches.get_state()

  # The loop
  held_out_loss = compilation.jit(lambda ema: train_step.objective.replace(train=False)(ema, held_out, jax.random.key(0)).mean())
  multi_step = parallel.pmap(functools.partial(several_steps, train_step, axis_name=parallel.AXIS), donate_argnums=(0,))
  key = parallel.replicate(jax.random.key(spec.seed))
  state = parallel.replicate(state)
  report = Report(workdir, start, spec.steps, spec.batch_size, spec.log_every, build.learning_rate(config))
  step = start

  def save(step, state, data_state):
    began = time.perf_counter()
    host = parallel.unreplicate(state)
    loss = float(held_out_loss(host.ema[0] if host.ema else host.params))
    report.held_out(step, loss)
    newest.save(step, host, config.to_dict(), data_state, loss)
    best.save_if_best(step, host, config.to_dict(), data_state, loss)
    report.pause(time.perf_counter() - began)

  def preview(step, state):
    began = time.perf_counter()
    host = parallel.unreplicate(state)
    drawn = runs.Run(config, host.ema[0] if host.ema else host.params, step).draw(PREVIEW, batch_size=PREVIEW)
    plots.save(plots.grid(drawn), workdir / "samples" / f"step_{step:07d}.png")
    report.draw_curve()
    report.pause(time.perf_counter() - began)

  with StopRequest() as stop_request:
    pending = None
    for num, stacked, data_state in parallel.prefetch(feed()):
      state, metrics = multi_step(state, resident, stacked, parallel.replicate(num), key)
      step += num
      if pending:
        take(report, *pending, spec.max_skipped_in_row, newest)
      pending = step, num, metrics
      due = [bool(every) and step % every == 0 for every in (spec.checkpoint_every, spec.sample_every)]
      if any(due) or step == spec.steps or stop_request:
        take(report, *pending, spec.max_skipped_in_row, newest)
        pending = None
      if due[0] or step == spec.steps or stop_request:
        save(step, state, data_state)
      if due[1] or step == spec.steps:
        preview(step, state)
      if stop_request:
        break
    newest.wait()
    best.wait()
  report.close()
  newest.close()
  best.close()
  if stop_request and step < spec.steps:
    print(f"stopped at step {step}, all saved; the same command goes on from there")
    sys.exit(128 + stop_request.signum)
  return parallel.unreplicate(state)


def take(report: Report, step: int, num: int, metrics, max_skipped: int, checkpoints: Checkpoints) -> None:
  """Waits for the metrics of a call and reports them; stops a run whose updates are no longer finite."""
  metrics = {name: values[:num] for name, values in parallel.unreplicate(metrics).items()}
  report.add(step, metrics)
  if metrics["skipped_in_row"].max() >= max_skipped:
    checkpoints.wait()
    last = f"step {checkpoints.steps()[-1]}" if checkpoints.steps() else "none"
    raise FloatingPointError(
      f"loss or gradient was not finite in {metrics['skipped_in_row'].max()} updates in a row up to step {step}; "
      f"the last good checkpoint is {last}. Lower train.learning_rate, set train.clip_norm, or check the data."
    )


def held_out_batch(config) -> dict[str, np.ndarray]:
  """The pictures that checkpoints are compared on."""
  source = runs.load_data(config, "test")
  examples = list(itertools.islice(source, HELD_OUT))
  batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
  return batch | {"index": np.arange(len(examples), dtype=np.int32)}


def main() -> None:
  if not flags.FLAGS.workdir or flags.FLAGS.config is None:
    raise ValueError("both --config and --workdir are needed: --config=configs/digits.py --workdir=runs/digits.")
  compilation.use_persistent_cache()
  train(flags.FLAGS.config, flags.FLAGS.workdir)


if __name__ == "__main__":
  from ml_collections import config_flags

  config_flags.DEFINE_config_file("config", None, "What to train: a file in configs/.")
  flags.DEFINE_string("workdir", None, "The run's folder.")
  run_script(main)
