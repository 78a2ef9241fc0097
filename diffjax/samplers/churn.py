import numbers

import jax.numpy as jnp

from diffjax.arrays import root
from diffjax.checks import check_in
from diffjax.typing import Array


def check_churn(sampler) -> None:
  """Raises ValueError for a field of churn that is out of range, and for churn without `num_steps`."""
  check_in("[0, inf)", s_churn=sampler.s_churn, s_tmin=sampler.s_tmin, s_noise=sampler.s_noise)
  check_in("[0, inf]", s_tmax=sampler.s_tmax)
  check_in("[1, inf)", num_steps=sampler.num_steps)
  without = isinstance(sampler.s_churn, numbers.Real) and sampler.s_churn == 0
  if sampler.num_steps is None and not without:
    raise ValueError("s_churn is spread over the grid's steps, but num_steps is not given; pass num_steps with it.")


def churn(sampler, x: Array, sigma: Array, key: Array) -> tuple[Array, Array]:
  """Raises x [B, ...] from sigma to sigma_hat by fresh noise (Karras et al. 2022, algorithm 2, lines 4-6).

  `sampler` has the fields s_churn, s_tmin, s_tmax, s_noise, num_steps and noise; s_churn = 0 leaves x as it is.
  Returns (x, sigma_hat). No network call.
  """
  if sampler.num_steps is None:
    return x, sigma
  inside = (sampler.s_tmin <= sigma) & (sigma <= sampler.s_tmax)
  gamma = jnp.minimum(sampler.s_churn / sampler.num_steps, jnp.sqrt(2.0) - 1)
  gamma = jnp.where(inside, gamma, 0).astype(x.dtype)
  noise = sampler.s_noise * sampler.noise(key, x.shape)
  return x + sigma * root(gamma * (2 + gamma)) * noise, sigma * (1 + gamma)
