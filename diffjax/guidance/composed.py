from collections.abc import Sequence

from diffjax import struct
from diffjax.arrays import expand
from diffjax.denoised import Denoised, Predictor
from diffjax.guidance.scales import Scale, at_level
from diffjax.guidance.stacking import like, stacked
from diffjax.typing import Array, Cond, Denoiser, PyTree


@struct.dataclass
class Composed(Predictor):
  """Several conditions at once: x0 = null + sum_i scale_i * (conditional_i - null).

  In the paper (Liu et al. 2022, composable diffusion), for eps, eps^ = eps + sum_i w_i (eps(c_i) - eps). A negative
  scale avoids its condition. One network call on K + 1 stacked batches.

  Attributes:
    denoiser: the conditional denoiser.
    null_cond: the cond for "no condition", with or without the leading [B].
    scales: one per condition, K in all; each [] or [B], or a function of sigma.
  """

  denoiser: Denoiser
  null_cond: PyTree
  scales: Sequence[Scale]

  def predict(self, x: Array, sigma: Array, cond: Sequence[Cond] = (), *, key: Array | None = None) -> Denoised:
    """x0 guided by a sequence of K conds; the null condition's unguided x0, and the first condition's variance.

    Raises ValueError if the number of conds differs from the number of scales.
    """
    all_of_them = stacked(self.denoiser, x, sigma, self._all(cond), key)
    null, *conditional = all_of_them.x0
    shift = sum(expand(at_level(scale, sigma), null) * (x0 - null) for scale, x0 in zip(self.scales, conditional))
    variance = None if all_of_them.variance is None else all_of_them.variance[1]
    return Denoised(null + shift, null, variance)

  def _all(self, cond):
    if not isinstance(cond, Sequence) or len(cond) != len(self.scales):
      given = f"{len(cond)} of them" if isinstance(cond, Sequence) else type(cond).__name__
      raise ValueError(
        f"cond must be a sequence of {len(self.scales)} conditions, one for each scale, got {given}; pass that many."
      )
    return [like(self.null_cond, cond[0]), *cond]
