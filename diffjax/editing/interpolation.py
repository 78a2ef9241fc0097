import jax.numpy as jnp

from diffjax.arrays import expand
from diffjax.typing import Array


def slerp(a: Array, b: Array, fraction: Array) -> Array:
  """Walks the great circle from noise a to noise b (Shoemake 1985), so that what lies between is as long as noise is.

  The angle is each sample's own. Parallel a and b are joined by a straight line, with finite gradients; opposite ones
  have no one circle between them, and the result is finite but arbitrary.

  Args:
    a, b: [B, ...].
    fraction: [] or [B], 0 for a, 1 for b.
  """
  axes, dtype = tuple(range(1, a.ndim)), jnp.result_type(a, b)
  a, b = (jnp.asarray(x, jnp.promote_types(dtype, jnp.float32)) for x in (a, b))  # 16 bits hold no such sums
  squared = lambda x: jnp.maximum(jnp.square(x).sum(axes), jnp.finfo(a.dtype).tiny)
  cosine = (a * b).sum(axes) / jnp.sqrt(squared(a)) / jnp.sqrt(squared(b))
  # arccos has infinite slopes at -1 and 1, and the sine below vanishes there
  margin = 8 * jnp.finfo(a.dtype).eps
  angle = jnp.arccos(jnp.clip(cosine, -1 + margin, 1 - margin))
  weight = lambda share: expand(jnp.sin(share * angle) / jnp.sin(angle), a)
  return (weight(1 - fraction) * a + weight(fraction) * b).astype(dtype)
