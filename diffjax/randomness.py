"""Random numbers, with one key per sample of a batch.

A sample then depends only on its own key, never on the rest of the batch or on the devices that drew it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffjax.typing import Array


def alone(draw: Callable) -> Callable:
  """Makes `draw` (key, ...), such as `jax.random.normal`, give the same values under `vmap` as without it.

  For key implementations other than threefry, such as rbg, `jax.vmap` draws a whole batch from its first key; keys are
  then processed one at a time.
  """

  def drawn(key, *args):
    if str(jax.random.key_impl(key)) == "threefry2x32":
      return draw(key, *args)
    return jax.custom_batching.sequential_vmap(draw)(key, *args)

  return drawn


def sample_keys(key: Array, num: int) -> Array:
  """One key per sample, [num]: folds the sample's index into a single key; keys [num] are returned unchanged.

  Raises:
    ValueError: if `key` is not a key, or is several keys but not one per sample.
  """
  dtype = getattr(key, "dtype", None)
  if dtype is None or not (jnp.issubdtype(dtype, jax.dtypes.prng_key) or dtype == jnp.uint32):
    raise ValueError(f"key is {key!r}, but must be a key, or one per sample; pass jax.random.key(0), for example.")
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
    raise ValueError(
      f"key {given}, but must be an array of one key per sample; pass randomness.sample_keys(key, batch_size)."
    )
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
  """Standard normal noise of `shape` [B, ...], sample i drawn from keys[i] only."""
  return jax.vmap(alone(lambda key: jax.random.normal(key, shape[1:])))(_checked(keys))


def uniform(keys: Array) -> Array:
  """Uniform numbers in (0, 1), one for each of keys [B]."""
  return jax.vmap(alone(lambda key: jax.random.uniform(key, minval=jnp.finfo(jnp.float32).tiny)))(_checked(keys))


def choice(keys: Array, num: int) -> Array:
  """int32 [B], for each of keys [B] one of 0..num-1, all equally likely."""
  return jax.vmap(alone(lambda key: jax.random.randint(key, (), 0, num)))(_checked(keys))


def stratified(key: Array, index: Array, batch_size: int) -> Array:
  """Low-discrepancy uniform numbers in (0, 1), spread evenly over the unit interval within a batch.

  Args:
    key: one key, the same for the whole batch.
    index: int [b], each sample's index in the whole batch, of which these samples may be a part.
    batch_size: samples in the whole batch, B.

  Returns:
    [b], (u + index / B) mod 1 (Kingma et al. 2021, Variational Diffusion Models, appendix I.1).
  """
  numbers = (jax.random.uniform(key) + index / batch_size) % 1
  return jnp.maximum(numbers, jnp.finfo(jnp.float32).tiny)
