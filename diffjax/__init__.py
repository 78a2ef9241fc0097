"""diffjax: a pure-JAX, functional diffusion framework."""

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

__version__ = "0.1.0"

__all__ = [
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
]
