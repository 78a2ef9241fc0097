import jax.numpy as jnp

from diffjax import struct
from diffjax.arrays import clip_factor, expand, squared_norm, upcast
from diffjax.checks import check_in
from diffjax.denoised import Denoised, Predictor
from diffjax.guidance.scales import Scale, at_level
from diffjax.guidance.stacking import like, of_first, stacked
from diffjax.typing import Array, Cond, Denoiser, PyTree


@struct.dataclass
class AdaptiveProjected(Predictor):
  """Adaptive projected guidance (Sadat et al. 2024): classifier-free guidance that does not oversaturate.

      delta = D(c) - D,  delta <- delta min(1, r / |delta|)
      D_guided = D(c) + (w - 1) (delta_orthogonal + eta delta_parallel)

  The difference of the two predictions is limited to norm `radius`, then its part along the conditional x0, which
  increases saturation, is multiplied by eta. Norms are per sample. One network call on the doubled batch. The paper's
  third part, momentum over steps, is `samplers.Momentum` around the sampler, because a denoiser has no state.

  Attributes:
    denoiser: the conditional denoiser.
    null_cond: the cond for "no condition", with or without the leading [B].
    scale: as in `ClassifierFree`; [] or [B], or a function of sigma.
    radius: largest norm of the difference over a whole sample; it depends on the size of the data.
    eta: weight of the parallel part; 0 drops it, and 1 with an infinite radius is classifier-free guidance.
  """

  denoiser: Denoiser
  null_cond: PyTree
  scale: Scale = 1.0
  radius: float = float("inf")
  eta: float = 0.0

  def __post_init__(self):
    check_in("(-inf, inf)", scale=self.scale, eta=self.eta)
    check_in("(0, inf]", radius=self.radius)

  def predict(
    self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None, past: Array | float = 0.0
  ) -> Denoised:
    """x0 guided along the difference of both predictions plus `past` [B, ...]; also returns that sum.

    Raises ValueError if cond and null_cond differ in structure.
    """
    both = stacked(self.denoiser, x, sigma, [cond, like(self.null_cond, cond)], key)
    conditional, null = both.x0
    guided, difference = self._guide(conditional, null, at_level(self.scale, sigma), past)
    return Denoised(guided, null, of_first(both.variance), difference)

  def _guide(self, conditional, null, scale, past):
    dtype = conditional.dtype
    conditional, null = upcast(conditional), upcast(null)
    total = conditional - null + past
    difference = total * clip_factor(jnp.sqrt(_square(total)), self.radius)
    parallel = (
      (difference * conditional).sum(tuple(range(1, conditional.ndim)), keepdims=True)
      / _square(conditional)
      * conditional
    )
    guided = conditional + expand(scale - 1, conditional) * (difference + (self.eta - 1) * parallel)
    return guided.astype(dtype), total


def _square(x):
  # the root of zero and its inverse have no gradient
  return jnp.maximum(squared_norm(x), 1e-12)
