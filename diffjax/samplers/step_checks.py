"""Checks that a method can take a step or wrap a sampler; traced values are not checked."""

from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from diffjax.typing import Array, PyTree, Sampler


def check_above_zero(sampler: Sampler, sigma_next: Array) -> None:
  """Raises ValueError for a step to sigma_next = 0, for methods that divide by sigma_next or take its logarithm.

  Under jit a traced sigma_next is not checked, and most of these methods return NaN for a step to 0.
  """
  if not _traced(sigma_next) and np.any(np.asarray(sigma_next) <= 0):
    name = type(sampler).__name__
    raise ValueError(f"{name} has no step to sigma_next = 0; call the denoiser there, as diffjax.sample does.")


def check_downward(sampler: Sampler, sigma: Array, sigma_next: Array, noise: Any = 1.0) -> None:
  """Raises ValueError for a step up in sigma if the method's amount of fresh `noise`, such as eta, is not 0.

  The reverse process is defined downward only; without noise a method follows the ODE in either direction.
  """
  if not _traced(sigma, sigma_next, noise) and np.any(np.asarray(sigma_next) > np.asarray(sigma)) and np.any(noise):
    name = type(sampler).__name__
    raise ValueError(f"{name} steps from a higher sigma to a lower one; to go up, use a method without noise.")


def init_one_step(wrapper: Any, x: Array) -> PyTree:
  """The carry of the sampler in `wrapper`; raises ValueError if that sampler carries state between steps.

  Fresh noise moves x off the path of the carried values, so a multistep formula no longer holds.
  """
  carry = wrapper.sampler.init(x)
  if jax.tree.leaves(carry):
    outside, inside = type(wrapper).__name__, type(wrapper.sampler).__name__
    raise ValueError(f"{outside} needs a sampler without state, but {inside} has state; wrap one such as DPMppS(2).")
  return carry


def _traced(*values):
  return any(isinstance(value, Tracer) for value in values)
