import dataclasses

import jax.numpy as jnp

from diffjax import struct
from diffjax.checks import check_in
from diffjax.denoised import Predicting, predict
from diffjax.samplers import recurrent
from diffjax.typing import Sampler


@struct.dataclass
class Momentum:
  """Momentum of adaptive projected guidance (Sadat et al. 2024): adds up the differences of successive steps.

  The paper's algorithm 1 keeps a running difference D_t = (x0(c) - x0) + beta D_{t+1}.

  With `guidance.AdaptiveProjected` as the denoiser, the difference of its two predictions becomes
  difference + momentum * (the previous step's). The paper uses negative values, about -0.5, which damp directions that
  guidance has already followed. If the sampler calls the denoiser more than once per step, the difference of the first
  call, at the step's start, is kept. The last step, to zero, is a plain denoiser call without momentum. The sampler's
  network calls.

  Raises:
    ValueError: if it wraps `Recurrent`, which must be outside; when stepping, if the denoiser is not such guidance.
  """

  sampler: Sampler
  momentum: float = -0.5

  def __post_init__(self):
    check_in("(-inf, inf)", momentum=self.momentum)
    recurrent.check_not_recurrent(self.sampler, "Momentum")

  def init(self, x):
    return self.sampler.init(x), jnp.zeros_like(x)

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    carry, past = carry
    differences = []

    def guided(x, sigma, cond, key):
      try:
        denoised = predict(denoiser, x, sigma, cond, key=key, past=self.momentum * past)
      except TypeError as error:
        raise ValueError(
          "Momentum needs guidance that supports it; pass a guidance.AdaptiveProjected as the denoiser."
        ) from error
      differences.append(denoised.difference)
      return dataclasses.replace(denoised, x0=denoised.x0.astype(x.dtype))

    x, carry = self.sampler.step(Predicting(guided), x, sigma, sigma_next, carry, key)
    return x, (carry, differences[0].astype(past.dtype))
