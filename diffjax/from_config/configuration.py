"""A run's config as data: its keys and defaults, its JSON, and the differences between two configs."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from diffjax.from_config.kinds import kind_of
from diffjax.networks import ImageEncoder, TextEncoder, UNet
from diffjax.system.files import parse_json, shown

NEW_KEYS = {
  "diffusion": ("sampler.guidance_interval", "sampler.guidance_rescale", "sampler.threshold", "data.augment"),
  "clip": ("guidance",),
}
"""By kind of model, keys missing from configs of older runs, whose defaults reproduce the behaviour of those runs."""

FREE_KEYS = ("parallel",)
"""Keys that may change when a run is resumed, as they do not affect its result."""


def default_config() -> Any:
  """A diffusion model's ConfigDict with every key that train.py and sample.py read; files in configs/ fill it in."""
  from ml_collections import ConfigDict

  config = _common()
  config.model = _fields(UNet)
  config.data.augment = 0.0
  config.schedule = ConfigDict()
  config.prediction = ConfigDict()
  config.time_scale = 1.0
  config.loss = ConfigDict()
  config.train.update(label_dropout=0.0, stratified=False, bound_weight=0.0)
  config.sampler = ConfigDict(
    dict(
      name="dpmpp_2m",
      steps=20,
      guidance_scale=1.0,
      guidance_interval=(0.0, 1e6),  # above every sigma; JSON has no infinity
      guidance_rescale=0.0,
      threshold=ConfigDict(dict(name="none")),
      options=ConfigDict(),
      grids=ConfigDict(),
    )
  )
  return config


def default_clip_config() -> Any:
  """A CLIP's ConfigDict with every key that train.py and sample.py read; files in configs/ fill it in."""
  from ml_collections import ConfigDict

  config = _common()
  config.data.shift = 0
  config.model.update(name="clip", features=64, loss="softmax", dtype="float32")
  config.model.update(image=_fields(ImageEncoder, OF_BOTH_TOWERS), text=_fields(TextEncoder, OF_BOTH_TOWERS))
  config.captions = ConfigDict(dict(names=ConfigDict(), templates=(), held_out=(), vocab_size=1024, length=32))
  config.guidance = default_guidance_config()
  return config


DEFAULTS = {"diffusion": default_config, "clip": default_clip_config}
"""By kind of model."""


def default_guidance_config() -> Any:
  """The default CLIP guidance, with every key; configs/guidance.py has named alternatives."""
  from ml_collections import ConfigDict

  config = ConfigDict(dict(method="energy", scale=23.0, distance="spherical", repeats=1, repeat_interval=(0.0, 1e6)))
  config.options = ConfigDict()
  config.views = ConfigDict(dict(name="small_views"))
  config.penalties = ConfigDict()
  config.sampler = ""  # empty: the run's
  config.accept = 0.0  # minimum share of what was asked for; images below it are drawn again
  config.by_steps = ConfigDict()  # {"minimum number of steps": other values for these keys}
  return config


IN_EVERY_MODULE = ("parent", "name")
FROM_DATA = ("out_channels", "image_size", "channels", "vocab_size", "context")
"""Fields determined by the data."""
OF_BOTH_TOWERS = ("features", "dtype")
"""Fields that both towers of a CLIP share."""


def _fields(network, besides=()):
  """A key for every field of a network; None, until set, means the network's own default."""
  from ml_collections import ConfigDict, config_dict

  left_out = {*IN_EVERY_MODULE, *FROM_DATA, *besides}
  fields = [field for field in dataclasses.fields(network) if field.name not in left_out]
  return ConfigDict({field.name: config_dict.placeholder(_type(field)) for field in fields})


def _type(field):
  if field.name == "dtype":
    return str
  return int if field.default in (None, dataclasses.MISSING) else type(field.default)


def _common() -> Any:
  from ml_collections import ConfigDict

  config = ConfigDict()
  config.data = ConfigDict(dict(name="", folder="", data_dir="", image_size=0, channels=0, flip=False, in_memory=True))
  config.model = ConfigDict()
  config.noise_levels = ConfigDict()
  config.train = ConfigDict(
    dict(
      steps=0,
      batch_size=128,
      seed=0,
      optimizer="adam",
      learning_rate=1e-3,
      warmup_steps=0,
      decay="constant",
      b1=0.9,
      b2=0.999,
      weight_decay=0.0,
      clip_norm=0.0,
      accumulate=1,
      steps_per_call=1,
      log_every=100,
      checkpoint_every=1000,
      sample_every=1000,
      keep_checkpoints=3,
      max_skipped_in_row=50,
    )
  )
  config.ema = ConfigDict(dict(decays=(0.999,)))
  config.parallel = "pmap"
  return config


def from_json(text: str | bytes):
  """A ConfigDict from the JSON in a run's folder; fills in `NEW_KEYS`, executes nothing.

  Raises:
    ValueError: if it is not valid JSON (`files.parse_json`), has a name that cannot be a key, or lacks a key of its
      kind's default config or has a value of another type there.
  """
  from ml_collections import ConfigDict

  tree = parse_json(text)
  parts = tree if isinstance(tree, dict) else {}
  kind = kind_of(parts) if isinstance(parts.get("model"), dict) else "diffusion"
  default = DEFAULTS[kind]().to_dict()
  for key in NEW_KEYS[kind]:
    section, _, name = key.rpartition(".")
    part, known = (parts.get(section), default[section]) if section else (parts, default)
    if isinstance(part, dict):
      part.setdefault(name, known[name])
  misfits = list(_misfits(tree, default))
  if misfits:
    raise ValueError("; ".join(misfits))
  try:
    return ConfigDict(tree)
  except (AttributeError, KeyError, TypeError) as error:  # keys named like ConfigDict's own methods
    raise ValueError(shown(str(error), 200)) from None


def _misfits(value: Any, default: Any, key: str = "it") -> Iterator[str]:
  """Lists what is wrong with a value where the default config has `default`."""
  kinds = {float: int | float, tuple: list | tuple}
  kind = type(default)
  if default is None:
    return  # a field of the network, which checks it
  if not isinstance(value, kinds.get(kind, kind)) or isinstance(value, bool) != (kind is bool):
    yield f"{key} is {shown(repr(value) if isinstance(value, str) else value)}, not of type {kind.__name__}"
  elif kind is dict:
    prefix = "" if key == "it" else f"{key}."
    for name in sorted(name for name in default.keys() - value.keys() if default[name] is not None):
      yield f"it lacks {prefix}{name}"
    for name in sorted(default.keys() & value.keys()):
      yield from _misfits(value[name], default[name], prefix + name)


def differences(config, other) -> list[str]:
  """ "key: ours, theirs" for each key in which two runs' configs differ, after a round trip through JSON."""
  return tree_differences(*(json.loads(c.to_json()) for c in (config, other)))


def tree_differences(tree: dict, other: dict) -> list[str]:
  """`differences` of two configs parsed from JSON."""
  ours, theirs = flat(tree), flat(other)
  keys = sorted((ours.keys() | theirs.keys()) - set(FREE_KEYS))
  missing = "nothing"
  return [f"{k}: {ours.get(k, missing)}, {theirs.get(k, missing)}" for k in keys if ours.get(k) != theirs.get(k)]


def flat(tree: dict, prefix: str = "") -> dict[str, Any]:
  """Flattens a tree of dicts to one dict with keys "a.b.c", omitting unset keys, which are None."""
  leaves = {}
  for key, value in tree.items():
    leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
  return {key: value for key, value in leaves.items() if value is not None}
