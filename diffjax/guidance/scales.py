"""Guidance scales: numbers, or functions of the noise level."""

from collections.abc import Callable

from diffjax.typing import Array

Scale = float | Array | Callable[[Array], Array]
"""A number, one per sample, [B], or a function of sigma. Under jit a function must be a `jax.tree_util.Partial`; a
number is a traced leaf."""


def at_level(scale: Scale, sigma: Array) -> Array | float:
  """The scale at a noise level: a function's value at sigma, or the number itself."""
  return scale(sigma) if callable(scale) else scale
