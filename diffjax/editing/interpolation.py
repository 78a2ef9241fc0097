import jax.numpy as jnp

from diffjax.arrays import expand
from diffjax.typing import Array


def slerp(a: Array, b: Array, fraction: Array) -> Array:
  """Spherical interpolation from noise a to noise b (Shoemake 1985), which keeps the norm typical of noise.

  Each sample has its own angle. Parallel a and b are interpolated linearly, with finite gradients; for opposite ones
  the great circle is not unique, and the result is finite but arbitrary.

  Args:
    a, b: [B, ...].
    fraction: [] or [B], 0 for a, 1 for b.
  """
  axes, dtype = tuple(range(1, a.ndim)), jnp.result_type(a, b)
  a, b = (jnp.asarray(x, jnp.promote_types(dtype, jnp.float32)) for x in (a, b))  # 16 bits cannot hold these sums
  squared = lambda x: jnp.maximum(jnp.square(x).sum(axes), jnp.finfo(a.dtype).tiny)
  cosine = (a * b).sum(axes) / jnp.sqrt(squared(a)) / jnp.sqrt(squared(b))
  # arccos has infinite gradients at -1 and 1, and the sine below vanishes there
  margin = 8 * jnp.finfo(a.dtype).eps
  angle = jnp.arccos(jnp.clip(cosine, -1 + margin, 1 - margin))
  weight = lambda share: expand(jnp.sin(share * angle) / jnp.sin(angle), a)
  return (weight(1 - fraction) * a + weight(fraction) * b).astype(dtype)
