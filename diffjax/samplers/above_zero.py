import jax
import numpy as np

from diffjax.typing import Array


def check_above_zero(sampler, sigma_next: Array) -> None:
  """Raises ValueError for a step to sigma_next = 0 of a method in log sigma; values that are traced pass."""
  if not isinstance(sigma_next, jax.core.Tracer) and np.any(np.asarray(sigma_next) <= 0):
    name = type(sampler).__name__
    raise ValueError(f"{name} has no step to sigma_next = 0; call the denoiser there, as diffjax.sample does.")
