"""A run's config as data: its keys and defaults, its JSON, and the differences between two configs."""

import json
from collections.abc import Iterator
from typing import Any

from diffjax.from_config import autoencoder, clip, defaults, diffusion, latent
from diffjax.from_config.kinds import KINDS, kind_of
from diffjax.system.files import parse_json, shown

FREE_KEYS = ("parallel",)
"""Keys that may change when a run is resumed, as they do not affect its result."""

default_config = diffusion.default_config
default_clip_config = clip.default_config
default_autoencoder_config = autoencoder.default_config
default_latent_config = latent.default_config
default_guidance_config = defaults.guidance


def from_json(text: str | bytes):
  """A ConfigDict from the JSON in a run's folder; fills in its kind's `NEW_KEYS`, executes nothing.

  Raises:
    ValueError: if it is not valid JSON (`files.parse_json`), has a name that cannot be a key, or lacks a key of its
      kind's default config or has a value of another type there.
  """
  from ml_collections import ConfigDict

  tree = parse_json(text)
  parts = tree if isinstance(tree, dict) else {}
  kind = KINDS[kind_of(parts) if isinstance(parts.get("model"), dict) else "diffusion"]
  default = kind.default_config().to_dict()
  for key in kind.NEW_KEYS:
    section, _, name = key.rpartition(".")
    part, known = (parts.get(section), default[section]) if section else (parts, default)
    if isinstance(part, dict):
      part.setdefault(name, known[name])
  misfits = list(_misfits(tree, default))
  if misfits:
    raise ValueError(", ".join(misfits))
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
