"""From a config to objects: plain tables of names, and the only file that reads a ConfigDict."""

import difflib
import functools
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from diffjax import denoisers, grids, losses, networks, noise_levels, samplers, schedules
from diffjax.schedules import Schedule
from diffjax.training.objective import Objective
from diffjax.training.step import TrainState, TrainStep, init_state
from diffjax.typing import Array, PyTree, Sampler

SCHEDULES: dict[str, Callable[..., Schedule]] = {
  "linear": schedules.linear,
  "scaled_linear": schedules.scaled_linear,
  "squared_cosine": schedules.squared_cosine,
  "cosine": schedules.Cosine,
  "sigmoid": schedules.Sigmoid,
  "sigmoid_betas": schedules.sigmoid_betas,
  "vp": schedules.VP,
  "ve": schedules.VE,
  "edm": schedules.EDM,
  "rectified_flow": schedules.RectifiedFlow,
}
GRIDS: dict[str, Callable[..., Array]] = {
  "karras": grids.karras,
  "exponential": grids.exponential,
  "uniform_time": grids.uniform_time,
  "uniform_log_snr": grids.uniform_log_snr,
}
SAMPLERS: dict[str, Callable[..., Sampler]] = {
  "euler": samplers.Euler,
  "ddpm": samplers.DDPM,
  "heun": samplers.Heun,
  "dpmpp_2m": samplers.DPMpp2M,
  "dpmpp_2m_sde": lambda eta=1.0: samplers.DPMpp2M(eta),
}
PREDICTIONS: dict[str, Callable[..., denoisers.Prediction]] = {
  "eps": denoisers.Eps,
  "x0": denoisers.X0,
  "v": denoisers.V,
  "flow": denoisers.Flow,
  "score": denoisers.Score,
  "edm": denoisers.EDM,
}
LOSSES: dict[str, Callable[..., Any]] = {
  "simple": losses.Simple,
  "snr": losses.SNR,
  "min_snr": losses.MinSNR,
  "edm": losses.EDM,
  "p2": losses.P2,
  "sigmoid": losses.Sigmoid,
}
NOISE_LEVELS: dict[str, Callable[..., Any]] = {
  "uniform_time": noise_levels.UniformTime,
  "log_normal": noise_levels.LogNormal,
  "logit_normal": noise_levels.LogitNormal,
}
NETWORKS: dict[str, Callable[..., Any]] = {
  "unet": networks.UNet,
  **{name: functools.partial(networks.UNet, **fields) for name, fields in networks.PUBLISHED.items()},
}
DECAYS = ("constant", "cosine")
PARALLEL = ("pmap",)


def lookup(table: Mapping[str, Any], kind: str, name: str) -> Any:
  """table[name]; a ValueError that names the nearest and all names where there is none."""
  if name not in table:
    raise ValueError(f"there is no {kind} {name!r}.{_nearest(name, table)} Choose one of {', '.join(sorted(table))}.")
  return table[name]


def _nearest(name: str, names: Iterable[str]) -> str:
  near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
  return f" Did you mean {near[0]!r}?" if near else ""


def construct(table: Mapping[str, Callable], kind: str, spec: Mapping[str, Any], *args, **context) -> Any:
  """Calls table[spec["name"]] with the rest of `spec`, and with those of `context` that it has parameters for.

  Raises:
    ValueError: an unknown name, or a key that the method does not have; names the nearest.
  """
  fields = {key: tuple(value) if isinstance(value, list | tuple) else value for key, value in spec.items()}
  name = fields.pop("name", "")
  make = lookup(table, kind, name)
  parameters = list(inspect.signature(make).parameters)[len(args) :]
  for key in fields:
    if key not in parameters:
      known = ", ".join(sorted(set(parameters) - set(context))) or "no parameters"
      raise ValueError(f"{kind} {name!r} has no parameter {key!r}.{_nearest(key, parameters)} It has {known}.")
  fields = {key: value for key, value in context.items() if key in parameters} | fields
  return make(*args, **fields)


def module(config) -> Any:
  """The Linen network of a config."""
  fields = dict(config.model, out_channels=config.data.channels)
  return construct(NETWORKS, "network", fields | {"dtype": jnp.dtype(fields.get("dtype", "float32"))})


def num_classes(config) -> int:
  """How many labels the model knows; 0 for one without labels. `num_classes` itself is then its null label."""
  return module(config).num_classes


def image_shape(config) -> tuple[int, int, int]:
  """(H, W, C) of the pictures a model draws."""
  return config.data.image_size, config.data.image_size, config.data.channels


def schedule(config) -> Schedule:
  """A config's schedule; the keys `zero_terminal_snr` and `shift` beside its own rescale and shift it.

  Raises:
    ValueError: an unknown name or key, or zero_terminal_snr for a schedule that is not discrete.
  """
  spec = dict(config.schedule)
  shift, rescale = spec.pop("shift", 1.0), spec.pop("zero_terminal_snr", False)
  made = construct(SCHEDULES, "schedule", spec)
  if rescale:
    if not isinstance(made, schedules.Discrete):
      raise ValueError(f"schedule.zero_terminal_snr needs a discrete schedule such as 'linear', not {spec['name']!r}.")
    made = schedules.zero_terminal_snr(made)
  return made if shift == 1.0 else schedules.Shifted(made, shift)


def prediction(config) -> denoisers.Prediction:
  return construct(PREDICTIONS, "prediction", config.prediction)


def denoiser(config, params: PyTree) -> denoisers.NetworkDenoiser:
  """A config's network, with its parameters, as a denoiser."""
  network = denoisers.BoundNetwork(params, module(config))
  return denoisers.NetworkDenoiser(network, prediction(config), schedule(config), config.time_scale)


def objective(config) -> Objective:
  """What a config trains."""
  parts = {"schedule": schedule(config), "prediction": prediction(config)}
  return Objective(
    **parts,
    noise_levels=construct(NOISE_LEVELS, "noise level distribution", config.noise_levels, **parts),
    weight=construct(LOSSES, "loss", config.loss, **parts),
    time_scale=config.time_scale,
    label_dropout=config.train.label_dropout,
    bound_weight=config.train.bound_weight,
    module=module(config),
    batch_size=config.train.batch_size,
    stratified=config.train.stratified,
    num_classes=num_classes(config),
    flip=config.data.flip,
    hybrid=config.train.bound_weight > 0,
  )


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
  """Adam, with global-norm clipping and decoupled weight decay where the config asks for them."""
  train = config.train
  clip = [optax.clip_by_global_norm(train.clip_norm)] if train.clip_norm else []
  adam = optax.adamw(learning_rate(config), b1=train.b1, b2=train.b2, weight_decay=train.weight_decay, mask=_kernels)
  return optax.chain(*clip, adam)


def _kernels(params: PyTree) -> PyTree:
  """Weight decay is for kernels: it would shrink norms and biases for nothing, and move frozen frequencies."""
  return jax.tree.map(lambda p: p.ndim > 1, params)


def train_step(config) -> TrainStep:
  lookup(dict.fromkeys(PARALLEL), "way to run in parallel", config.parallel)
  return TrainStep(objective(config), tuple(config.ema.decays), optimizer(config), config.train.accumulate)


def initial_state(config) -> TrainState:
  """The state that train.seed starts from; trace it with `jax.eval_shape` for its shapes alone."""
  net = module(config)
  labels = {"label": jnp.zeros((1,), jnp.int32)} if net.num_classes else None
  x = jnp.zeros((1, *image_shape(config)))
  params = net.init(jax.random.fold_in(jax.random.key(config.train.seed), 0), x, jnp.zeros(()), labels)
  return init_state(params, optimizer(config), len(config.ema.decays))


def grid(config, num_steps: int, name: str | None = None) -> Array:
  """The noise levels for `num_steps` network calls of a one-call method.

  The config recommends grids by number of steps: `sampler.grids` maps "from this many steps on" to a grid. A `name`
  takes that grid with its defaults instead.
  """
  grids.check_num_steps(num_steps)
  spec = {"name": name}
  if name is None:
    fitting = [key for key in config.sampler.grids if int(key) <= num_steps]
    if not fitting:
      raise ValueError(f"sampler.grids names no grid for {num_steps} steps; add one under the key '1', or name a grid.")
    spec = config.sampler.grids[max(fitting, key=int)]
  return construct(GRIDS, "grid", spec, num_steps, schedule=schedule(config))


def sampler(config, name: str | None = None, **options: float) -> Sampler:
  """A sampler by name (default: the config's own, with `sampler.options`), and those of `options` that are not None.

  A network with a learned variance draws with it by "ddpm".

  Raises:
    ValueError: an unknown name, or an option that the sampler does not have.
  """
  given = {key: value for key, value in options.items() if value is not None}
  if name is None or name == config.sampler.name:
    name, given = config.sampler.name, dict(config.sampler.options) | given
  if name == "ddpm":
    given = {"learned": module(config).learned_variance} | given
  return construct(SAMPLERS, "sampler", {"name": name, **given}, scaling=schedule(config).scaling)


def check(config) -> None:
  """Constructs everything that a config names, and looks at its numbers, so that mistakes show before a run begins.

  Raises:
    ValueError: the first mistake found.
  """
  train = config.train
  for key in (
    "steps",
    "batch_size",
    "accumulate",
    "steps_per_call",
    "log_every",
    "max_skipped_in_row",
    "keep_checkpoints",
  ):
    if train[key] < 1:
      raise ValueError(f"train.{key} is {train[key]}, but must be at least 1.")
  for key in ("checkpoint_every", "sample_every", "warmup_steps", "clip_norm", "weight_decay", "bound_weight"):
    if train[key] < 0:
      raise ValueError(f"train.{key} is {train[key]}, but must not be negative.")
  if not train.learning_rate > 0:
    raise ValueError(f"train.learning_rate is {train.learning_rate}, but must be above 0.")
  if not 0 <= train.seed < 2**32:
    raise ValueError(f"train.seed is {train.seed}, but must lie in 0..2**32 - 1.")
  net = module(config)
  if train.label_dropout > 0 and net.num_classes and not net.null_label:
    raise ValueError("train.label_dropout needs a network with a null label; set model.null_label=True, or drop none.")
  if not 0 <= train.label_dropout <= 1:
    raise ValueError(f"train.label_dropout is {train.label_dropout}, but must lie in 0..1.")
  if not all(0 <= decay < 1 for decay in config.ema.decays):
    raise ValueError(f"ema.decays is {tuple(config.ema.decays)}, but each must lie in 0..1.")
  if train.bound_weight > 0 and not (
    module(config).learned_variance and isinstance(schedule(config), schedules.Discrete)
  ):
    raise ValueError("train.bound_weight needs model.learned_variance=True and a discrete schedule such as 'linear'.")
  grid(config, config.sampler.steps)
  sampler(config)


def default_config():
  """A ConfigDict with every key that train.py and sample.py read; the files in configs/ fill it in."""
  from ml_collections import ConfigDict

  config = ConfigDict()
  config.data = ConfigDict(dict(name="", folder="", data_dir="", image_size=0, channels=0, flip=False, in_memory=True))
  config.model = ConfigDict()
  config.schedule = ConfigDict()
  config.prediction = ConfigDict()
  config.time_scale = 1.0
  config.noise_levels = ConfigDict()
  config.loss = ConfigDict()
  config.train = ConfigDict(
    dict(
      steps=0,
      batch_size=128,
      seed=0,
      learning_rate=1e-3,
      warmup_steps=0,
      decay="constant",
      b1=0.9,
      b2=0.999,
      weight_decay=0.0,
      clip_norm=0.0,
      accumulate=1,
      label_dropout=0.0,
      stratified=False,
      bound_weight=0.0,
      steps_per_call=1,
      log_every=100,
      checkpoint_every=1000,
      sample_every=1000,
      keep_checkpoints=3,
      max_skipped_in_row=50,
    )
  )
  config.ema = ConfigDict(dict(decays=(0.999,)))
  config.sampler = ConfigDict(
    dict(name="dpmpp_2m", steps=20, guidance_scale=1.0, options=ConfigDict(), grids=ConfigDict())
  )
  config.parallel = "pmap"
  return config


def read_config(text: str):
  """A ConfigDict from the JSON that a run's folder holds; nothing in it is executed."""
  from ml_collections import ConfigDict

  return ConfigDict(json.loads(text))


def lacking(config) -> list[str]:
  """Keys of `default_config` that a config does not have."""
  return sorted(_flat(default_config().to_dict()).keys() - _flat(config.to_dict()).keys())


def differences(config, other) -> list[str]:
  """ "key: ours, theirs" for each key in which two configs differ, after a round trip through JSON."""
  ours, theirs = (_flat(json.loads(c.to_json())) for c in (config, other))
  keys = sorted(ours.keys() | theirs.keys())
  missing = "nothing"
  return [f"{k}: {ours.get(k, missing)}, {theirs.get(k, missing)}" for k in keys if ours.get(k) != theirs.get(k)]


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
  flat = {}
  for key, value in tree.items():
    flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
  return flat
