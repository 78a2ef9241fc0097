"""Trains a diffusion model of pixels or of latents, an autoencoder, or a CLIP.

  python train.py --config=configs/digits.py --workdir=runs/digits [--config.train.steps=500 ...]

The same command resumes a run that was stopped. Ctrl-C or SIGTERM saves and exits within 25 s, with 128 + the signal's
number, unless one call of train.steps_per_call steps takes longer than 15 s: then the run exits without saving. A
second signal exits at once; checkpoints already written are kept.
--dry_run only prints devices, memory and cost of the run.
"""

import contextlib
import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable

import jax
import numpy as np
from absl import flags

from diffjax import data, from_config, runs
from diffjax.cluster import devices, processes
from diffjax.cluster.command_line import run as run_script
from diffjax.cluster.signals import StopRequest
from diffjax.cluster.watchdog import Watchdog
from diffjax.runs import phases
from diffjax.runs.checkpoints import Checkpoints
from diffjax.runs.report import NoReport, Report
from diffjax.system import compilation, memory, paths
from diffjax.training.loop import calls, stack_batches
from diffjax.training.step import TrainState, several_steps

HELD_OUT, PART = 512, 64
"""Number of held-out pictures that checkpoints are evaluated on, and the batch size for that."""


def train(config, workdir: str | pathlib.Path) -> TrainState:
  """Trains the model of a config in a folder, or resumes the run in it.

  Args:
    config: a completed `configuration.default_config()`, or that of another kind of model.
    workdir: for config.json, metrics.jsonl, loss.png, checkpoints/, best/, samples/ and a lock.

  Returns:
    The last state: NumPy arrays, or with parallel="fsdp" jax.Arrays sharded among the devices.

  Raises:
    ValueError: an invalid config, or one that differs from the run's in the folder; another process trains there.
    OSError: no room for a checkpoint.
    FloatingPointError: when train.max_skipped_in_row updates in a row were not finite.
    MemoryError: when a device runs out of memory.
    SystemExit: after a signal, when the state is saved.
  """
  workdir = paths.as_path(workdir)
  # Every error in the config shows here, before anything is written
  from_config.check(config)
  devices.check_batch_size(config.train.batch_size, config.train.accumulate)
  frozen = runs.load_frozen(config, workdir)
  layout = from_config.layout(config, frozen)
  multi_step = layout.compile(functools.partial(several_steps, from_config.train_step(config)))
  phases.reach("data")
  opened = []
  processes.from_first(lambda: opened.append(runs.load_data(config, "train")))  # prepared once, not by all at once
  source = opened.pop() if opened else runs.load_data(config, "train")
  source = runs.captioned(config, source, frozen)
  held_out = held_out_batches(config, frozen)
  params = None if runs.has_begun(workdir) else runs.load_start(config, layout.target, frozen)
  with runs.claimed(workdir, config), memory.explaining(multi_step, memory_settings(config)) as multi_step:
    return continue_run(config, workdir, multi_step, layout, frozen, params, source, held_out)


def continue_run(
  config, workdir: pathlib.Path, multi_step: Callable, layout, frozen, params, source, held_out
) -> TrainState:
  """The rest of `train`, once the folder is claimed."""
  spec = config.train

  # Resume or start
  phases.reach("start")
  newest = Checkpoints(workdir / runs.CHECKPOINTS, spec.keep_checkpoints)
  best = Checkpoints(workdir / runs.BEST, best=True)
  found = newest.restore_newest(layout.target.trained, config.to_dict())
  if found:
    state, saved = found
  else:
    state, saved = layout.initial(lambda: from_config.initial_state(config, frozen).trained), None
    params = runs.load_start(config, layout.target, frozen) if params is None else params
    state = runs.start_from(state, params)
  state = dataclasses.replace(state, frozen=frozen)
  runs.keep_frozen(workdir, frozen)
  step = start = int(state.step)
  num_params = sum(p.size for p in jax.tree.leaves(state.params))
  say = processes.announce
  say(f"{num_params:,} parameters, {len(source):,} images, {devices.device_count()} device(s); writing to {workdir}")
  if start == spec.steps:
    say(f"the run is complete: {start} steps done")
    return state
  processes.from_first(lambda: newest.check_room(state.trained))  # now, not after hours
  if start:
    say(f"resuming from step {start}")

  # Data: ids of examples that live on the devices, or the examples themselves
  if config.data.in_memory and source.groups is None:
    resident = layout.replicate(data.in_memory(runs.encoded_once(source, frozen)))
    batches = data.id_batches(len(source), spec.batch_size, spec.seed, **processes.process())
  else:
    resident = {}
    source = runs.encoded_once(source, frozen) if config.data.in_memory else source
    batches = data.batches(source, spec.batch_size, spec.seed, **processes.process())
  if saved:
    batches.set_state(saved["data"])
  boundaries = (spec.log_every, spec.checkpoint_every, spec.sample_every)

  def feed():
    for num in calls(start, spec.steps, spec.steps_per_call, boundaries):
      stacked = layout.share(stack_batches(batches, num, spec.steps_per_call))
      yield num, layout.replicate(np.int32(num)), stacked, batches.get_state()

  # The loop
  objective = from_config.held_out_objective(config, sum(len(batch["index"]) for batch in held_out))
  held_out_loss = layout.evaluate(lambda params, frozen, batch: objective(params, batch, jax.random.key(0), frozen))
  key = layout.replicate(jax.random.key(spec.seed))
  state = layout.place(state)
  report = NoReport()
  if processes.is_first():
    report = Report(workdir, start, spec.steps, spec.batch_size, spec.log_every, from_config.learning_rate(config))

  def evaluate(step, state, data_state):
    """Evaluates the averaged model on held-out data, and saves it if it is the best."""
    phases.reach("evaluation")
    losses = []
    for batch in held_out:
      if step < spec.steps and processes.any_process(stop_request):
        return  # a preempted machine leaves no time; the resumed run evaluates this step
      losses.append(np.asarray(held_out_loss(state.averaged, state.frozen, batch)))
      watchdog.beat(step, slow=True)
    loss = processes.from_first(lambda: float(np.concatenate(losses).mean()))
    report.held_out(step, loss)
    best.save_if_best(step, state.trained, config.to_dict(), data_state, loss)

  def preview(step, state):
    phases.reach("preview")
    runs.preview(config, state.averaged, frozen, workdir / "samples" / f"step_{step:07d}.png")
    report.draw_curve()

  with (
    contextlib.closing(report),
    contextlib.closing(newest),
    contextlib.closing(best),
    StopRequest() as stop_request,
    stop_request.on_timeout(newest.wait),  # finish a checkpoint that is being written
    Watchdog(start) as watchdog,
  ):
    if found and start and spec.checkpoint_every and start % spec.checkpoint_every == 0:
      # the process that saved this may have exited before the evaluation
      evaluate(start, layout.snapshot(state), found[1]["data"])
    pending = None
    for num, traced_num, stacked, data_state in devices.prefetch(feed()):
      stopping = processes.any_process(stop_request)
      phases.reach("step", step, num, state, stacked)
      state, metrics = multi_step(state, resident, stacked, traced_num, key)
      step += num
      if pending:
        take(report, *pending, spec.max_skipped_in_row, newest)
        watchdog.beat(pending[0])
      pending = step, num, functools.partial(layout.fetch, metrics)
      last = step == spec.steps or bool(stopping)
      if stopping:
        stop_request.acknowledge()
      saving, showing = (last or (every > 0 and step % every == 0) for every in boundaries[1:])
      if not (saving or showing):
        continue
      take(report, *pending, spec.max_skipped_in_row, newest)
      pending = None
      watchdog.beat(step, slow=True)
      with report.paused():
        snapshot = layout.snapshot(state)
        keep = functools.partial(newest.save, step, snapshot.trained, config.to_dict(), data_state, float("inf"))
        if saving and step < spec.steps:
          keep()  # before the evaluation, for which a preempted machine leaves no time
        # with several processes, starting a checkpoint needs all of them
        with stop_request.on_timeout(*((newest.wait,) if processes.several() else (keep, newest.wait))):
          if saving:
            evaluate(step, snapshot, data_state)
          watchdog.beat(step, slow=True)
          if showing and not processes.any_process(stop_request):
            preview(step, snapshot)
      last = last or bool(processes.any_process(stop_request))
      watchdog.beat(step, slow=last)
      if last:
        stop_request.acknowledge()
        best.wait()
        keep()  # only after the evaluation: a run is complete once its last state is evaluated
        break
    newest.wait()
    best.wait()
  if step < spec.steps:
    say(f"stopped at step {step}, state saved; the same command resumes from there")
    sys.exit(stop_request.exit_code)
  return layout.snapshot(state)


def take(report: Report | NoReport, step: int, num: int, fetch, max_skipped: int, checkpoints: Checkpoints) -> None:
  """Waits for the metrics of a call and reports them; ends a run whose updates are no longer finite."""
  metrics = {name: values[:num] for name, values in fetch().items()}
  report.add(step, metrics)
  if metrics["skipped_in_row"].max() >= max_skipped:
    checkpoints.wait()
    last = f"that of step {checkpoints.steps()[-1]}" if checkpoints.steps() else "none"
    raise FloatingPointError(
      f"loss or gradient was not finite in {metrics['skipped_in_row'].max()} updates in a row up to step {step}, and"
      f" the last good checkpoint is {last}; check the data, or start in a new workdir with a lower train.learning_rate"
      " or with train.clip_norm."
    )


def memory_settings(config) -> dict:
  """Settings that affect the memory of a training step on these devices."""
  return from_config.memory_settings(config) | ({"parallel": config.parallel} if devices.device_count() > 1 else {})


def dry_run(config, workdir: str | pathlib.Path) -> None:
  """Prints what `train` would do without doing it; errors as there."""
  from_config.check(config)
  devices.check_batch_size(config.train.batch_size, config.train.accumulate)
  with memory.explaining(None, memory_settings(config)):  # the compiler may run out of memory
    frozen = runs.load_frozen(config, workdir)
    layout = from_config.layout(config, frozen)
    runs.load_start(config, layout.target, frozen)
    text = runs.dry_run(config, paths.as_path(workdir), from_config.train_step(config), layout, frozen)
  processes.announce(text)


def held_out_batches(config, frozen=None) -> list[dict[str, np.ndarray]]:
  """The images that checkpoints are compared on, in batches of equal size, of each group if their shapes differ."""
  source = runs.captioned(config, runs.load_data(config, "test"), frozen)
  groups, batches, done = source.by_group(), [], 0
  share = HELD_OUT // len(groups)
  for ids in groups:
    size = min(len(ids), share, PART)
    num = min(len(ids), share) // size * size
    examples = [source[int(i)] for i in data.evenly(ids.tolist(), num)]
    batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
    batch["index"] = np.arange(done, done + num, dtype=np.int32)  # whose noise levels spread over all groups
    done += num
    batches += [{name: values[i : i + size] for name, values in batch.items()} for i in range(0, num, size)]
  return batches


def main() -> None:
  from ml_collections import config_flags

  if not flags.FLAGS.workdir or flags.FLAGS.config is None:
    raise ValueError(
      "--config or --workdir is missing; give both, as in --config=configs/digits.py --workdir=runs/digits."
    )
  path = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"]))
  if not path.is_file():
    raise FileNotFoundError(f"there is no config file {path}; see the folder configs/.")
  if flags.FLAGS.dry_run:
    dry_run(flags.FLAGS.config, flags.FLAGS.workdir)
    return
  compilation.use_persistent_cache()
  train(flags.FLAGS.config, flags.FLAGS.workdir)


if __name__ == "__main__":
  from ml_collections import config_flags

  config_flags.DEFINE_config_file("config", None, "What to train: a file in configs/.")
  flags.DEFINE_string("workdir", None, "The run's folder.")
  flags.DEFINE_bool("dry_run", False, "Only print devices, memory, cost and folder of the run.")
  run_script(main)
