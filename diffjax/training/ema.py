"""Exponential moving averages of parameters, in float32."""

import jax
import jax.numpy as jnp

from diffjax.typing import Array, PyTree


def init(params: PyTree, num: int) -> tuple[PyTree, ...]:
  """One float32 copy of the parameters for each decay."""
  return tuple(jax.tree.map(lambda p: jnp.array(p, jnp.float32), params) for _ in range(num))


def update(emas: tuple[PyTree, ...], params: PyTree, decays: tuple[float, ...], step: Array) -> tuple[PyTree, ...]:
  """Moves each average towards the parameters; `step` is the number of earlier updates.

  The decay warms up as min(decay, (1 + step) / (10 + step)), so that the average forgets the random initialisation.
  """

  def one(ema, decay):
    decay = jnp.minimum(decay, (1 + step) / (10 + step)).astype(jnp.float32)
    return jax.tree.map(lambda e, p: e + (1 - decay) * (p.astype(jnp.float32) - e), ema, params)

  return tuple(one(ema, decay) for ema, decay in zip(emas, decays))
