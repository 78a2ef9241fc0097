import jax.numpy as jnp

from diffjax import struct
from diffjax.arrays import expand, upcast, within
from diffjax.checks import check_in
from diffjax.denoised import Denoised, Predictor
from diffjax.guidance.scales import Scale, at_level
from diffjax.guidance.stacking import like, of_first, stacked
from diffjax.typing import Array, Cond, Denoiser, PyTree


@struct.dataclass
class ClassifierFree(Predictor):
  """Classifier-free guidance (Ho & Salimans 2022, eq. 6): x0 = null + scale * (conditional - null).

      eps~(z, c) = (1 + w) eps(z, c) - w eps(z)

  This is the paper's formula for eps; our scale is 1 + w. Scale 1 is the conditional model, 0 the unconditional one.
  Both come from one network call on the doubled batch. A learned variance, if any, is the conditional model's. For a
  negative condition, pass it as null_cond. With `samplers.MeanGuided` around Euler and a scale in [0, 1] this is CFG++
  (Chung et al. 2024).

  Attributes:
    denoiser: the conditional denoiser.
    null_cond: the cond for "no condition": the same dict as cond, with or without the leading [B].
    scale: strength of the guidance; [] or [B], or a function of sigma.
    interval: (lowest, highest) sigma at which guidance acts; outside, scale is 1 (Kynkaanniemi et al. 2024).
    rescale: 0..1, how far the guided x0 is rescaled to the conditional x0's standard deviation, per sample (Lin et al.
      2023, eq. 15-16).
  """

  denoiser: Denoiser
  null_cond: PyTree
  scale: Scale = 1.0
  interval: tuple[float, float] = (0.0, float("inf"))
  rescale: float = 0.0

  def __post_init__(self):
    check_in("(-inf, inf)", scale=self.scale)
    check_in("[0, 1]", rescale=self.rescale)

  def predict(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Denoised:
    """The guided x0; the unguided x0 is the null one, or outside the interval the conditional; conditional variance.

    Raises ValueError if cond and null_cond differ in structure.
    """
    both = stacked(self.denoiser, x, sigma, [cond, like(self.null_cond, cond)], key)
    conditional, null = both.x0
    unguided = jnp.where(expand(within(sigma, self.interval), null), null, conditional)
    return Denoised(self._guide(conditional, null, sigma), unguided, of_first(both.variance))

  def _guide(self, conditional, null, sigma):
    scale = jnp.where(within(sigma, self.interval), at_level(self.scale, sigma), 1.0).astype(conditional.dtype)
    guided = null + expand(scale, null) * (conditional - null)
    return guided * (1 + self.rescale * (_std(conditional) / _std(guided) - 1)).astype(guided.dtype)


def _std(x):
  # the root of zero has no gradient: a constant image must not give NaN
  return jnp.sqrt(jnp.maximum(upcast(x).var(tuple(range(1, x.ndim)), keepdims=True), 1e-12))
