"""What belongs to each sample of a batch: its noise level and its random key.

A key per sample makes a picture depend on its own key only, never on its batch mates or on the devices that drew it.
"""

import jax
import jax.numpy as jnp

from diffjax.draws import alone
from diffjax.typing import Array, PyTree


def expand(level: Array, x: Array) -> Array:
  """Reshapes `level` [] or [B] so that it multiplies x [B, ...]; a scalar stays as it is.

  Raises:
    ValueError: if there is not one level for each of x's samples.
  """
  level = jnp.asarray(level)
  if any(a != b and 1 not in (a, b) for a, b in zip(level.shape, x.shape)):
    raise ValueError(f"expected one number, or one for each of x's {x.shape[0]} samples, got shape {level.shape}.")
  return level if level.ndim == 0 else level.reshape(level.shape + (1,) * (x.ndim - level.ndim))


def within(sigma: Array, interval: tuple[float, float]) -> Array:
  """Whether sigma lies within interval = (lowest, highest), both included.

  Raises:
    ValueError: if interval is not two levels.
  """
  if not isinstance(interval, tuple | list) or len(interval) != 2:
    raise ValueError(f"interval is {interval}, but must be (lowest, highest) sigma; (0, inf) holds all.")
  low, high = interval
  return (low <= sigma) & (sigma <= high)


def root(square: Array) -> Array:
  """The square root, whose slope at 0 is taken as 0: of noise that is left out, a gradient sees nothing."""
  zero = square == 0
  return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))


def wide(x: Array) -> Array:
  """x in at least float32: in 16 bits squares and sums of many numbers overflow, and small bounds below them are 0."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def squared_norm(x: Array) -> Array:
  """The squared Euclidean norm of each sample of x [B, ...], as [B, 1, ...], in at least float32."""
  return jnp.square(wide(x)).sum(tuple(range(1, x.ndim)), keepdims=True)


def shortening(length: Array, longest: Array | float) -> Array:
  """The factor in [0, 1] that leaves vectors of a `length` above zero no longer than `longest`; inf: 1, of slope 0."""
  endless = jnp.isposinf(longest)
  # inf / length has an infinite slope, which times the zero of a minimum not taken would be NaN
  return jnp.where(endless, 1, jnp.minimum(1, jnp.where(endless, 1, longest) / length))


def in_dtypes_of(former: PyTree, tree: PyTree) -> PyTree:
  """`tree` with the dtypes of `former`, leaf by leaf: under x64 noise is drawn in more than x may have."""
  return jax.tree.map(lambda a, b: b.astype(a.dtype), former, tree)


def sample_keys(key: Array, num: int) -> Array:
  """One key per sample, [num]: folds the sample's number into a single key; keys that are [num] already stay.

  Raises:
    ValueError: if `key` is no key, or holds several keys, but not one per sample.
  """
  dtype = getattr(key, "dtype", None)
  if dtype is None or not (jnp.issubdtype(dtype, jax.dtypes.prng_key) or dtype == jnp.uint32):
    raise ValueError(f"key is {key!r}, but must be one such as jax.random.key(0), or one for each sample.")
  key = jnp.asarray(key)
  if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    key = jax.random.wrap_key_data(key)
  if key.ndim == 0:
    return fold_in_each(key, jnp.arange(num))
  if key.shape != (num,):
    raise ValueError(f"key has shape {key.shape}; pass one key, or one for each of the {num} samples.")
  return key


def _checked(keys):
  if getattr(keys, "ndim", 0) == 0:
    given = f"has shape {keys.shape}" if hasattr(keys, "shape") else f"is {keys!r}"
    raise ValueError(f"key {given}, but must hold one key for each sample; pass batching.sample_keys(key, batch_size).")
  return keys


def fold_in_each(key: Array, numbers: Array) -> Array:
  """Keys [B] from one key and B numbers."""
  return jax.vmap(alone(jax.random.fold_in), (None, 0))(key, numbers)


def fold_in(keys: Array, number: Array | int) -> Array:
  """Folds one number into each of keys [B]."""
  return jax.vmap(alone(jax.random.fold_in), (0, None))(_checked(keys), number)


def split(keys: Array, num: int = 2) -> Array:
  """Splits each of keys [B] into `num` keys: [num, B], to be unpacked into named keys."""
  return jax.vmap(alone(lambda key: jax.random.split(key, num)), out_axes=1)(_checked(keys))


def normal(keys: Array, shape: tuple[int, ...]) -> Array:
  """Standard normal noise of `shape` [B, ...], sample i drawn from keys[i] alone."""
  return jax.vmap(alone(lambda key: jax.random.normal(key, shape[1:])))(_checked(keys))


def uniform(keys: Array) -> Array:
  """Uniform numbers in (0, 1), one for each of keys [B]."""
  return jax.vmap(alone(lambda key: jax.random.uniform(key, minval=jnp.finfo(jnp.float32).tiny)))(_checked(keys))


def stratified(key: Array, index: Array, batch_size: int) -> Array:
  """Low-discrepancy uniform numbers in (0, 1): the samples of a batch share the unit interval evenly.

  Args:
    key: one key, the same for the whole batch.
    index: int [b], each sample's place in the whole batch, of which this may be a part.
    batch_size: samples in the whole batch, B.

  Returns:
    [b], (u + index / B) mod 1 (Kingma et al. 2021, Variational Diffusion Models, appendix I.1).
  """
  numbers = (jax.random.uniform(key) + index / batch_size) % 1
  return jnp.maximum(numbers, jnp.finfo(jnp.float32).tiny)
