"""Arithmetic on batches [B, ...]: per-sample levels, norms, and precision."""

import numbers

import jax
import jax.numpy as jnp

from diffjax.typing import Array, ArrayLike, PyTree


def expand(level: ArrayLike, x: Array) -> Array:
  """Reshapes `level` [] or [B] to broadcast against x [B, ...]; a scalar is returned unchanged.

  Raises:
    ValueError: if `level` is neither a scalar nor one level per sample of x.
  """
  level = jnp.asarray(level)
  if any(a != b and 1 not in (a, b) for a, b in zip(level.shape, x.shape)):
    raise ValueError(
      f"expected one number, or one for each of x's {x.shape[0]} samples, got shape {level.shape}; pass either."
    )
  return level if level.ndim == 0 else level.reshape(level.shape + (1,) * (x.ndim - level.ndim))


def within(sigma: Array, interval: tuple[float, float]) -> Array:
  """Whether sigma lies within interval = (lowest, highest), ends included.

  Raises:
    ValueError: if interval is not a pair, or not in ascending order.
  """
  if not isinstance(interval, tuple | list) or len(interval) != 2:
    raise ValueError(f"interval is {interval}, but must be (lowest, highest) sigma; pass (0, inf) for all levels.")
  low, high = interval
  if all(isinstance(end, numbers.Real) for end in interval) and not low <= high:
    raise ValueError(f"interval is {interval}, but must begin with the lower sigma; swap the two.")
  return (low <= sigma) & (sigma <= high)


def safe_sqrt(square: Array) -> Array:
  """The square root, with gradient 0 at 0, so that noise of scale zero adds nothing to a gradient."""
  zero = square == 0
  return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))


def upcast(x: Array) -> Array:
  """x in at least float32: in 16 bits, squares and long sums overflow, and small lower bounds underflow to 0."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def squared_norm(x: Array) -> Array:
  """The squared Euclidean norm of each sample of x [B, ...], as [B, 1, ...], in at least float32."""
  return jnp.square(upcast(x)).sum(tuple(range(1, x.ndim)), keepdims=True)


def clip_factor(length: Array, longest: Array | float) -> Array:
  """The factor in [0, 1] that limits vectors of positive `length` to `longest`; if that is inf, 1 with gradient 0."""
  endless = jnp.isposinf(longest)
  # inf / length has an infinite gradient; times zero, for the branch that minimum did not take, it would be NaN
  return jnp.where(endless, 1, jnp.minimum(1, jnp.where(endless, 1, longest) / length))


def cast_like(former: PyTree, tree: PyTree) -> PyTree:
  """Casts `tree` to the dtypes of `former`, leaf by leaf: under x64, noise may be drawn in a wider dtype than x's."""
  return jax.tree.map(lambda a, b: b.astype(a.dtype), former, tree)
