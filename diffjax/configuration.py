"""A run's config as data: its keys with their defaults, its JSON, and in what two of them differ."""

import json
from collections.abc import Iterator
from typing import Any

NEW_SAMPLER_KEYS = ("guidance_interval", "guidance_rescale", "threshold")
"""Keys of `sampler` that the configs of older runs lack, and whose defaults mean what those runs did."""


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
      optimizer="adam",
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
  config.parallel = "pmap"
  return config


def from_json(text: str):
  """A ConfigDict from the JSON that a run's folder holds; `NEW_SAMPLER_KEYS` are filled in, nothing is executed.

  Raises:
    ValueError: if it is no JSON, or lacks a key of `default_config`, or has a value of another type there.
  """
  from ml_collections import ConfigDict

  tree, default = json.loads(text), default_config().to_dict()
  if isinstance(tree, dict) and isinstance(tree.get("sampler"), dict):
    tree["sampler"] = {key: default["sampler"][key] for key in NEW_SAMPLER_KEYS} | tree["sampler"]
  misfits = list(_misfits(tree, default))
  if misfits:
    raise ValueError("; ".join(misfits))
  return ConfigDict(tree)


def _misfits(value: Any, default: Any, key: str = "it") -> Iterator[str]:
  """What is wrong with a value where a config has `default`."""
  kinds = {float: int | float, tuple: list | tuple}
  kind = type(default)
  if not isinstance(value, kinds.get(kind, kind)) or isinstance(value, bool) != (kind is bool):
    yield f"{key} is {value!r:.60}, not of type {kind.__name__}"
  elif kind is dict:
    prefix = "" if key == "it" else f"{key}."
    for name in sorted(default.keys() - value.keys()):
      yield f"it lacks {prefix}{name}"
    for name in sorted(default.keys() & value.keys()):
      yield from _misfits(value[name], default[name], prefix + name)


def differences(config, other) -> list[str]:
  """ "key: ours, theirs" for each key in which two configs differ, after a round trip through JSON."""
  ours, theirs = (flat(json.loads(c.to_json())) for c in (config, other))
  keys = sorted(ours.keys() | theirs.keys())
  missing = "nothing"
  return [f"{k}: {ours.get(k, missing)}, {theirs.get(k, missing)}" for k in keys if ours.get(k) != theirs.get(k)]


def flat(tree: dict, prefix: str = "") -> dict[str, Any]:
  """A tree of dicts as one dict, "a.b.c" its keys."""
  leaves = {}
  for key, value in tree.items():
    leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
  return leaves
