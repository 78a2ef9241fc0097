"""Random values of a key alone, however many keys are mapped over."""

from collections.abc import Callable

import jax


def alone(draw: Callable) -> Callable:
  """`draw` (key, ...), such as `jax.random.normal`, whose values under `vmap` are those of each key without it.

  For other implementations than threefry, such as rbg, `jax.vmap` draws all values of a batch from its first key; there
  one key is drawn from at a time.
  """

  def drawn(key, *args):
    if str(jax.random.key_impl(key)) == "threefry2x32":
      return draw(key, *args)
    return jax.custom_batching.sequential_vmap(draw)(key, *args)

  return drawn
