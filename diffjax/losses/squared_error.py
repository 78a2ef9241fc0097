"""The loss of a denoiser: a weighted squared error of x0.

Every loss is weight(sigma) * ||denoiser(x) - x0||^2: for a network that predicts the noise, the velocity or anything
else, the squared error of its output differs from this only by a factor 1 / c_out^2, which is `Simple`. A weighting
therefore means the same for every prediction. Nothing here is random: noise and sigma are arguments.
"""

import jax.numpy as jnp

from diffjax.arrays import expand, upcast
from diffjax.losses.weights import Weight
from diffjax.typing import Array, Cond, Denoiser


def mean_flat(values: Array) -> Array:
  """Mean over all axes but the batch: [B, ...] -> [B]."""
  return upcast(values.reshape(values.shape[0], -1)).mean(axis=1)


def denoising(
  denoiser: Denoiser,
  weight: Weight,
  x0: Array,
  noise: Array,
  sigma: Array,
  cond: Cond = None,
  *,
  key: Array | None = None,
) -> Array:
  """weight(sigma) times the mean squared error of the predicted x0: [B], from x0 and noise [B, ...], sigma [B]."""
  error = denoiser(x0 + expand(sigma, x0) * noise, sigma, cond, key=key) - x0
  return weight(sigma) * mean_flat(jnp.square(upcast(error)))
