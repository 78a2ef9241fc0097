"""Builds the parts of a training run from a config, for any kind of model."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from diffjax.checks import check_numbers
from diffjax.cluster import devices
from diffjax.cluster.layouts import LAYOUTS, Layout
from diffjax.from_config.configuration import flat
from diffjax.from_config.construction import lookup
from diffjax.from_config.kinds import kind
from diffjax.training.optimizers import adam, muon
from diffjax.training.step import TrainState, TrainStep, init_state
from diffjax.typing import Array, PyTree

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {"adam": adam, "muon": muon}
DECAYS = ("constant", "cosine")
NO_STEP = 2**32 - 1
"""A number that no step has, as each step folds its own number into the same key."""


def num_classes(config) -> int:
  """Number of labels that the data must have; 0 for a model that uses none."""
  return kind(config).num_classes(config)


def learning_rate(config) -> optax.Schedule:
  """Linear warm-up to train.learning_rate, then constant or a cosine to zero at train.steps."""
  train = config.train
  lookup(dict.fromkeys(DECAYS), "decay of the learning rate", train.decay)
  rest = max(train.steps - train.warmup_steps, 1)
  after = {
    "constant": optax.constant_schedule(train.learning_rate),
    "cosine": optax.cosine_decay_schedule(train.learning_rate, rest),
  }[train.decay]
  if not train.warmup_steps:
    return after
  warmup = optax.linear_schedule(train.learning_rate / train.warmup_steps, train.learning_rate, train.warmup_steps - 1)
  return optax.join_schedules([warmup, after], [train.warmup_steps])


def optimizer(config) -> optax.GradientTransformation:
  """The optimiser named by train.optimizer, preceded by clipping to train.clip_norm if that is set."""
  train = config.train
  before = [optax.clip_by_global_norm(train.clip_norm)] if train.clip_norm else []
  make = lookup(OPTIMIZERS, "optimizer", train.optimizer)
  after = kind(config).bounds(config)
  return optax.chain(*before, make(learning_rate(config), train.b1, train.b2, train.weight_decay), *after)


def train_step(config) -> TrainStep:
  """The training step of a config."""
  objective = kind(config).objective(config)
  return TrainStep(objective, tuple(config.ema.decays), optimizer(config), config.train.accumulate)


def held_out_objective(config, batch_size: int) -> Callable[..., Array]:
  """The objective that compares checkpoints, without dropout and augmentation, for batches of `batch_size`."""
  config = config.copy_and_resolve_references()
  config.train.batch_size = batch_size
  objective = kind(config).objective(config).replace(train=False)
  return lambda params, batch, key, frozen=None: objective(params, batch, key, frozen=frozen)[0]


def memory_settings(config) -> dict[str, Any]:
  """Settings that affect the memory of a training step."""
  return {"train.batch_size": config.train.batch_size} | kind(config).memory_settings(config)


def layout(config, frozen: PyTree = None) -> Layout:
  """The layout of the run's arrays: `parallel` in the config; `frozen` as returned by `initial_frozen`."""
  shapes = jax.eval_shape(lambda frozen: initial_state(config, frozen), frozen)
  return lookup(LAYOUTS, "parallel layout", config.parallel)(shapes)


def initial_frozen(config) -> PyTree:
  """What training reads but does not change, such as a teacher: arrays on the host, or None.

  Checkpoints do not hold it: a resumed run calls this again, so the same config must always give the same arrays.
  """
  return devices.whole(kind(config).initial_frozen(config))  # a device array could be donated to the first step


def initial_state(config, frozen: PyTree = None) -> TrainState:
  """The initial state for train.seed; use `jax.eval_shape` to get its shapes only."""
  key_init = jax.random.fold_in(jax.random.key(config.train.seed), NO_STEP)
  params = kind(config).initial_params(config, key_init, frozen)
  return init_state(params, optimizer(config), len(config.ema.decays), frozen)


def check(config) -> None:
  """Constructs everything that a config names and checks its numbers, so that mistakes show before a run begins.

  Raises:
    ValueError: the first mistake found.
  """
  missing = [name for name in ("data", "model", "parallel", "train") if name not in config]
  if missing:
    raise ValueError(f"the config has no {missing[0]!r}; start from its default_config(), as configs/digits.py does.")
  check_numbers(flat(config.to_dict()))
  lookup(LAYOUTS, "parallel layout", config.parallel)
  kind(config).check(config)
