import jax.numpy as jnp

from diffjax import randomness
from diffjax.sampling import sample
from diffjax.typing import Array, Cond, Denoiser, Sampler


def shorten(sigmas: Array, strength: float) -> Array:
  """The last levels of a grid [N + 1]: round(strength * N) levels above zero, at least one, then zero.

  Raises:
    ValueError: if strength is not in (0, 1].
  """
  if not 0 < strength <= 1:
    raise ValueError(f"strength is {strength}, but must be above 0 and at most 1; correct it.")
  num_steps = len(sigmas) - 1
  return sigmas[num_steps - max(1, int(strength * num_steps + 0.5)) :]


def img2img(
  denoiser: Denoiser,
  sampler: Sampler,
  x0: Array,
  sigmas: Array,
  *,
  strength: float,
  key: Array,
  cond: Cond = None,
) -> Array:
  """SDEdit: noises images to a level inside the grid and samples from there (Meng et al. 2021, algorithm 1).

  Args:
    denoiser: (x, sigma, cond, key=keys) -> x0.
    sampler: one of `diffjax.samplers`.
    x0: the images, [B, ...].
    sigmas: [N + 1], as for `diffjax.sample`.
    strength: in (0, 1], the fraction of the grid's levels that are used; a different number of levels recompiles.
    key: one key, or one per sample.
    cond: passed to every denoiser call.

  Returns:
    x0 [B, ...].

  Raises:
    ValueError: as in `shorten` and `diffjax.sample`.
  """
  sigmas = jnp.asarray(shorten(sigmas, strength))
  key_start, key_path = randomness.split(randomness.sample_keys(key, x0.shape[0]))
  x = x0 + sigmas[0] * randomness.normal(key_start, x0.shape)
  return sample(denoiser, sampler, x, sigmas, key=key_path, cond=cond)
