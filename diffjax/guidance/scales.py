"""Scales of guidance: numbers, or functions of the noise level."""

from collections.abc import Callable

from diffjax.typing import Array

Scale = float | Array | Callable[[Array], Array]
"""A number, one for each sample, [B], or a function of sigma; under jit a `jax.tree_util.Partial`, a number stays a
traced leaf."""


def at_level(scale: Scale, sigma: Array) -> Array | float:
  """A scale at a noise level: what a function gives for sigma, or the number itself."""
  return scale(sigma) if callable(scale) else scale
