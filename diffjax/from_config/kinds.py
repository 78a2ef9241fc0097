"""The kinds of model that train.py trains: one module each, with the same functions."""

from types import ModuleType

from diffjax.from_config import clip, diffusion

KINDS: dict[str, ModuleType] = {"diffusion": diffusion, "clip": clip}
"""Each has NETWORKS, the names in `model.name`, and check, objective, initial_params, initial_frozen,
num_classes, bounds and memory_settings, of a config."""


def kind_of(config) -> str:
  """The kind of model that a config, or its tree of dicts, describes; "diffusion" for unknown networks."""
  name = str(config["model"].get("name"))
  return next((kind for kind, module in KINDS.items() if name in module.NETWORKS), "diffusion")


def kind(config) -> ModuleType:
  """The module for a config's kind of model."""
  return KINDS[kind_of(config)]
