"""Training on arrays in memory, in one call."""

import functools
from collections.abc import Callable, Mapping

import jax
import numpy as np
import optax
import tqdm

from diffjax.checks import check_in, check_integer
from diffjax.cluster import devices, processes
from diffjax.cluster.layouts import Replicated
from diffjax.data import id_batches
from diffjax.training.loop import calls, restart_clock, stack_batches
from diffjax.training.step import TrainState, TrainStep, init_state, several_steps
from diffjax.typing import Array, Objective, PyTree


def fit(
  objective: Objective,
  params: PyTree,
  data: Mapping[str, Array],
  *,
  steps: int,
  batch_size: int = 64,
  optimizer: optax.GradientTransformation | None = None,
  ema_decay: float = 0.999,
  seed: int = 0,
  steps_per_call: int = 50,
  frozen: PyTree = None,
  report: Callable[[int, dict[str, float]], None] | None = None,
) -> TrainState:
  """Trains parameters on arrays in memory, on all devices; train.py adds a folder, checkpoints and configs to this.

  Args:
    objective: (params, batch, key, frozen=..., axis_name=...) -> (losses [b], metrics), `DenoisingObjective` for
      example. A batch has the arrays of `data` and "index" int32 [b], each example's place in the batch.
    params: the initial parameters, as returned by the network's `init`.
    data: arrays with leading [N], such as {"image": uint8 [N, H, W, C], "label": int32 [N]}.
    steps: the number of steps.
    batch_size: examples in a step, on all devices together.
    optimizer: of optax; default: Adam with a learning rate of 1e-3.
    ema_decay: of the average returned by `averaged`.
    seed: of the order of the data and of all randomness in the objective.
    steps_per_call: how many steps each call of the compiled program takes.
    frozen: what the objective reads but training does not change, such as a teacher.
    report: called after each call of the program with (steps done, means of the metrics since the last report);
      default: a progress bar.

  Returns:
    The final state, as NumPy arrays: `state.averaged` to draw with, `state.params`.

  Raises:
    ValueError: data that is no dict, arrays of different lengths, or numbers out of range.
  """
  check_integer(1, steps=steps, batch_size=batch_size, steps_per_call=steps_per_call)
  devices.check_batch_size(batch_size, 1)
  check_integer(0, seed=seed)
  check_in("[0, 1)", ema_decay=ema_decay)
  if not isinstance(data, Mapping):
    raise ValueError(f'data is of type {type(data).__name__}; pass a dict of arrays such as {{"image": images}}.')
  lengths = {name: len(values) for name, values in data.items()}
  if len(set(lengths.values())) != 1:
    raise ValueError(f"data has arrays of lengths {lengths}; give at least one array, and all of one length.")
  (length,) = set(lengths.values())
  optimizer = optax.adam(1e-3) if optimizer is None else optimizer
  step = TrainStep(objective, (ema_decay,), optimizer)
  state = init_state(params, optimizer, 1, frozen)
  layout = Replicated(state)
  multi_step = layout.compile(functools.partial(several_steps, step))
  resident, key = layout.replicate(dict(data)), layout.replicate(jax.random.key(seed))
  batches = id_batches(length, batch_size, seed, **processes.process())
  state, done = layout.place(state), 0
  with tqdm.tqdm(total=steps, disable=None if report is None and processes.is_first() else True) as bar:
    for num in calls(0, steps, steps_per_call, ()):
      stacked = layout.share(stack_batches(batches, num, steps_per_call))
      state, metrics = multi_step(state, resident, stacked, layout.replicate(np.int32(num)), key)
      done += num
      means = {name: float(values[:num].mean()) for name, values in layout.fetch(metrics).items()}
      if report is not None:
        report(done, means)
      bar.update(num) if done > num else restart_clock(bar, done)
      bar.set_postfix_str(f"loss {means['loss']:.4f}")
  return layout.snapshot(state)
