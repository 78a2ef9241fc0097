"""One network call for several conditions, stacked along the batch."""

import jax
import jax.numpy as jnp

from diffjax.denoised import Denoised, predict
from diffjax.typing import Array, Cond, Denoiser, PyTree


def stacked(denoiser: Denoiser, x: Array, sigma: Array, conds: list[Cond], key: Array | None) -> Denoised:
  """The denoiser's predictions for K conds, from one call: every leaf is [K, B, ...].

  Raises:
    ValueError: if an entry of a cond does not have one row per sample.
  """
  for entry in jax.tree.leaves(conds):
    if jnp.shape(entry)[:1] != x.shape[:1]:
      raise ValueError(
        f"cond has an entry of shape {jnp.shape(entry)}, but x has {x.shape[0]} samples; give one row per sample."
      )
  many = lambda a: jnp.concatenate([a] * len(conds))
  cond = jax.tree.map(lambda *parts: jnp.concatenate(parts), *conds)
  sigma, key = sigma if jnp.ndim(sigma) == 0 else many(sigma), None if key is None else many(key)
  out = predict(denoiser, many(x), sigma, cond, key=key)
  return jax.tree.map(lambda a: a.reshape(len(conds), x.shape[0], *a.shape[1:]), out)


def of_first(stack: Array | None) -> Array | None:
  """The first cond's part of a stacked leaf, or None."""
  return None if stack is None else stack[0]


def like(null_cond: PyTree, cond: Cond) -> Cond:
  """`null_cond`, whose arrays may lack the leading [B], with cond's shapes and dtypes; never perturbed.

  Raises:
    ValueError: if the two have different structures.
  """
  if isinstance(cond, dict) and "perturb" in cond:
    null_cond = {"perturb": False} | (null_cond or {})
  if jax.tree.structure(cond) != jax.tree.structure(null_cond):
    raise ValueError(f"cond is {_names(cond)}, but null_cond is {_names(null_cond)}; give both the same entries.")
  return jax.tree.map(lambda n, c: jnp.broadcast_to(jnp.asarray(n, c.dtype), c.shape), null_cond, cond)


def _names(cond):
  return sorted(cond) if isinstance(cond, dict) else cond
