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

LOADED_WHEN_ASKED = ("evaluation", "plots", "pretrained", "training")
"""Subpackages that are slow to import; each is imported on first use."""

FORMER = {"published": "pretrained", "weights": "pretrained"}
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
  *LOADED_WHEN_ASKED,
]


def __getattr__(name: str):
  if name in FORMER:
    warnings.warn(f"diffjax.{name} is now diffjax.{FORMER[name]}.", DeprecationWarning, stacklevel=2)
    name = FORMER[name]
  if name in LOADED_WHEN_ASKED:
    return importlib.import_module(f"diffjax.{name}")
  raise AttributeError(f"module 'diffjax' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted({*globals(), *LOADED_WHEN_ASKED})
