from collections.abc import Sequence

from diffjax import struct
from diffjax.arrays import expand
from diffjax.guidance.stacking import like, stacked
from diffjax.typing import Array, Cond, Denoiser, PyTree


@struct.dataclass
class Composed:
  """Several conditions at once: x0 = null + sum_i scale_i * (conditional_i - null) (Liu et al. 2022, composable
  diffusion). A condition with a negative scale is avoided. One network call on K + 1 stacked batches.

  Attributes:
    denoiser: the conditional denoiser.
    null_cond: what stands for "no condition", with or without the leading [B].
    scales: one for each of the K conditions; each [] or [B].
  """

  denoiser: Denoiser
  null_cond: PyTree
  scales: Sequence[float]

  def __call__(self, x: Array, sigma: Array, cond: Sequence[Cond], *, key: Array | None = None) -> Array:
    """x0 [B, ...] for a sequence of K conds; raises ValueError if there is not one for each scale."""
    return sum(self.x0_and_shift(x, sigma, cond, key=key))

  def x0_and_shift(
    self, x: Array, sigma: Array, cond: Sequence[Cond], *, key: Array | None = None
  ) -> tuple[Array, Array]:
    """The unconditional x0, and what the conditions add to it."""
    return self._add(stacked(self.denoiser, x, sigma, self._all(cond), key))

  @property
  def x0_and_variance(self):
    """As `__call__`, with the variance's place beside x0, the first condition's; only there if the denoiser has it."""
    predict = self.denoiser.x0_and_variance

    def guided(x: Array, sigma: Array, cond: Sequence[Cond], *, key: Array | None = None):
      x0s, fraction = stacked(predict, x, sigma, self._all(cond), key)
      return sum(self._add(x0s)), None if fraction is None else fraction[1]

    return guided

  def _all(self, cond):
    if not isinstance(cond, Sequence) or len(cond) != len(self.scales):
      given = f"{len(cond)} of them" if isinstance(cond, Sequence) else type(cond).__name__
      raise ValueError(f"cond must be a sequence of {len(self.scales)} conditions, one for each scale, got {given}.")
    return [like(self.null_cond, cond[0]), *cond]

  def _add(self, x0s):
    null, *conditional = x0s
    return null, sum(expand(scale, null) * (x0 - null) for scale, x0 in zip(self.scales, conditional))
