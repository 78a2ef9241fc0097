import jax.numpy as jnp

from diffjax import struct
from diffjax.arrays import expand
from diffjax.checks import check_in
from diffjax.guidance.stacking import stacked
from diffjax.typing import Array, Cond, Denoiser


@struct.dataclass
class PerturbedAttention:
  """Perturbed-attention guidance (Ahn et al. 2024): x0 + scale * (x0 - perturbed); needs no label and no null label.

  The perturbed prediction is that of the same network with the identity for self-attention maps, which it uses for the
  samples whose cond["perturb"] is True; `networks.UNet` does so in the blocks of its field `perturbed_blocks`. One
  network call on the doubled batch. Scale 0 is the unguided model; [] or [B].

  Around `ClassifierFree(denoiser, null_cond, w)`, which perturbs the conditional prediction alone, this is
  null + w * (x0 - null) + scale * w * (x0 - perturbed).
  """

  denoiser: Denoiser
  scale: float = 0.0

  def __post_init__(self):
    check_in("(-inf, inf)", scale=self.scale)

  def __call__(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Array:
    """x0 [B, ...] at x [B, ...], sigma [] or [B]; cond is None or a dict."""
    return self._guide(*self._both(self.denoiser, x, sigma, cond, key))

  @property
  def x0_and_variance(self):
    """As `__call__`, with the variance's place beside x0; only there if the denoiser has it."""
    predict = self.denoiser.x0_and_variance

    def guided(x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None):
      both, fraction = self._both(predict, x, sigma, cond, key)
      return self._guide(*both), None if fraction is None else fraction[0]

    return guided

  def _both(self, predict, x, sigma, cond, key):
    conds = [(cond or {}) | {"perturb": jnp.full(x.shape[0], flag)} for flag in (False, True)]
    return stacked(predict, x, sigma, conds, key)

  def _guide(self, x0, perturbed):
    return x0 + expand(self.scale, x0) * (x0 - perturbed)
