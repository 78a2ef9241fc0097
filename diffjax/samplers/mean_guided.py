from collections.abc import Callable

import jax.numpy as jnp

from diffjax import struct
from diffjax.denoised import Denoised, Predicting, predict
from diffjax.samplers import recurrent
from diffjax.schedules import variance_exploding
from diffjax.typing import Sampler


@struct.dataclass
class MeanGuided:
  """Guides the end of a step: the sampler steps with the unguided x0, then the guidance's shift is added.

  CFG++ combines x0_guided with the unguided eps,

      x_{t-1} = sqrt(bar alpha_{t-1}) x0_guided + sqrt(1 - bar alpha_{t-1}) eps

  and DPS takes x_{i-1} = x'_{i-1} - zeta_i grad_{x_i} ||y - A(x0(x_i))||^2, where x' is the unguided step. Both are
  the unguided step plus a shift, so the noise left in x is the unguided model's. Around Euler(eta),
  `guidance.ClassifierFree` with a scale in [0, 1] becomes CFG++ (Chung et al. 2024), an energy with position "x0"
  becomes MPGD, and one with position "mean" DPS or FreeDoM. The denoiser must be guided; if the sampler calls it more
  than once per step, the shift of the first call, at the step's start, is used. It makes the sampler's network calls.

  `scaling` defines the coordinates in which the shift is the same at the start and the end of a step: with
  `schedules.variance_preserving` these are x_t = alpha * x.

  Raises:
    ValueError: if it wraps `Recurrent`, which must be outside.
  """

  sampler: Sampler
  scaling: Callable = struct.field(pytree_node=False, default=variance_exploding)

  def __post_init__(self):
    recurrent.check_not_recurrent(self.sampler, "MeanGuided")

  def init(self, x):
    return self.sampler.init(x)

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    shifts = []

    def unguided(x, sigma, cond, key):
      denoised = predict(denoiser, x, sigma, cond, key=key)
      if denoised.unguided is None:
        raise ValueError("the denoiser is not guided; wrap it in guidance such as guidance.ClassifierFree.")
      shifts.append(denoised.x0 - denoised.unguided)
      return Denoised(denoised.unguided.astype(x.dtype), variance=denoised.variance)

    x, carry = self.sampler.step(Predicting(unguided), x, sigma, sigma_next, carry, key)
    return x + jnp.asarray(self.scaling(sigma) / self.scaling(sigma_next), x.dtype) * shifts[0], carry
