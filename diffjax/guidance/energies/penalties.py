"""Energies that do not depend on the text: smoothness, range, saturation (Crowson 2021).

Each is (x0 [B, H, W, C] in -1..1, keys or None) -> [B], a mean over the image's values; weight them with `energies`.
"""

import jax.numpy as jnp

from diffjax.arrays import upcast
from diffjax.typing import Array


def total_variation(x0: Array, key: Array | None = None) -> Array:
  """Mean squared difference of neighbours along both axes; borders count as 0 (Mahendran & Vedaldi 2015)."""
  down, right = (jnp.square(jnp.diff(upcast(x0), axis=axis)).sum((1, 2, 3)) for axis in (1, 2))
  return (down + right) / x0[0].size


def out_of_range(x0: Array, key: Array | None = None) -> Array:
  """Mean squared distance of values from -1..1."""
  return jnp.square(upcast(x0 - jnp.clip(x0, -1, 1))).mean((1, 2, 3))


def saturation(x0: Array, key: Array | None = None) -> Array:
  """Mean distance of values from -1..1."""
  return jnp.abs(upcast(x0 - jnp.clip(x0, -1, 1))).mean((1, 2, 3))
