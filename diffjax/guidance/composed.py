from collections.abc import Sequence

from diffjax import struct
from diffjax.batching import expand
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
    if not isinstance(cond, Sequence) or len(cond) != len(self.scales):
      given = f"{len(cond)} of them" if isinstance(cond, Sequence) else type(cond).__name__
      raise ValueError(f"cond must be a sequence of {len(self.scales)} conditions, one for each scale, got {given}.")
    null, *conditional = stacked(self.denoiser, x, sigma, [like(self.null_cond, cond[0]), *cond], key)
    return null, sum(expand(scale, x) * (x0 - null) for scale, x0 in zip(self.scales, conditional))
