"""diffjax: a pure-JAX, functional diffusion framework."""

import importlib
import warnings

from diffjax import (
  denoisers,
  editing,
  grids,
  guidance,
  likelihood,
  losses,
  networks,
  noise_levels,
  posterior,
  samplers,
  schedules,
)
from diffjax.sampling import sample
from diffjax.warning import DiffjaxWarning

__version__ = "0.1.0"

LAZY_SUBMODULES = (
  "adapters",
  "cluster",
  "codecs",
  "conditioning",
  "data",
  "evaluation",
  "from_config",
  "pipelines",
  "plots",
  "pretrained",
  "runs",
  "system",
  "training",
)
"""Submodules that are slow to import or seldom needed; each is imported on first use."""

RENAMED = {"published": "pretrained", "weights": "pretrained"}
"""Subpackage names of version 0.1, with today's names."""

__all__ = [
  "DiffjaxWarning",
  "denoisers",
  "editing",
  "grids",
  "guidance",
  "likelihood",
  "losses",
  "networks",
  "noise_levels",
  "posterior",
  "sample",
  "samplers",
  "schedules",
  *LAZY_SUBMODULES,
]


def __getattr__(name: str):
  if name in RENAMED:
    message = f"diffjax.{name} is now diffjax.{RENAMED[name]}; use that name."
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    name = RENAMED[name]
  if name in LAZY_SUBMODULES:
    return importlib.import_module(f"diffjax.{name}")
  raise AttributeError(f"module 'diffjax' has no attribute {name!r}; see dir(diffjax).")


def __dir__() -> list[str]:
  return sorted({*globals(), *LAZY_SUBMODULES})
