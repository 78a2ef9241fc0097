from collections.abc import Callable

import jax.numpy as jnp

from diffjax import struct
from diffjax.samplers import recurrent
from diffjax.schedules import variance_exploding
from diffjax.typing import Denoiser, Sampler


def with_variance(predict: Callable, denoiser: Denoiser) -> Callable:
  """`predict` (x, sigma, key=key) -> x0 as a denoiser that has the learned variance of `denoiser`, if that has one.

  The variance is asked for by a second network call of the same inputs, which the compiler merges with the first.
  """
  if hasattr(denoiser, "x0_and_variance"):
    fraction = lambda x, sigma, key: denoiser.x0_and_variance(x, sigma, key=key)[1]
    predict.x0_and_variance = lambda x, sigma, *, key=None: (predict(x, sigma, key=key), fraction(x, sigma, key))
  return predict


@struct.dataclass
class MeanGuided:
  """Guidance of where a step ends: the sampler steps with the unguided x0, then guidance's shift is added.

  The noise that stays in the picture is then the unguided model's. Around Euler(eta), `guidance.ClassifierFree` with a
  scale in [0, 1] becomes CFG++ (Chung et al. 2024), an energy with position "x0" becomes MPGD, and one with position
  "mean" DPS or FreeDoM. The denoiser must tell its shift by `x0_and_shift`; of a sampler that calls it more than once,
  the shift of the first call, at the step's start, is added. As many network calls as the sampler has.

  `scaling` is that of the coordinates in which the shift is added: with `schedules.variance_preserving` a shift of
  x_t = alpha * x, as at the start of the step, is one at its end.

  Raises:
    ValueError: around `Recurrent`, which belongs around this.
  """

  sampler: Sampler
  scaling: Callable = struct.field(pytree_node=False, default=variance_exploding)

  def __post_init__(self):
    recurrent.check_outside(self.sampler, "MeanGuided")

  def init(self, x):
    return self.sampler.init(x)

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    if not hasattr(denoiser, "x0_and_shift"):
      raise ValueError(
        "this denoiser is not guided, or hides by how much; wrap guidance such as ClassifierFree itself."
      )
    shifts = []

    def unguided(x, sigma, *, key=None):
      x0, shift = denoiser.x0_and_shift(x, sigma, key=key)
      shifts.append(shift)
      return x0.astype(x.dtype)

    x, carry = self.sampler.step(with_variance(unguided, denoiser), x, sigma, sigma_next, carry, key)
    return x + jnp.asarray(self.scaling(sigma) / self.scaling(sigma_next), x.dtype) * shifts[0], carry
