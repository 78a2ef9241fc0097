import jax.numpy as jnp

from diffjax import struct
from diffjax.arrays import expand
from diffjax.checks import check_in
from diffjax.denoised import Denoised, Predictor
from diffjax.guidance.scales import Scale, at_level
from diffjax.guidance.stacking import of_first, stacked
from diffjax.typing import Array, Cond, Denoiser


@struct.dataclass
class PerturbedAttention(Predictor):
  """Perturbed-attention guidance (Ahn et al. 2024): x0 + scale * (x0 - perturbed); needs no label and no null label.

  In the paper, for eps, eps~ = eps + s (eps - eps^). The perturbed prediction, eps^, comes from the same network with
  self-attention maps replaced by the identity for samples whose cond["perturb"] is True; `networks.UNet` does this in
  the blocks named by its field `perturbed_blocks`. One network call on the doubled batch. Scale 0 is the unguided
  model; [] or [B], or a function of sigma.

  Around `ClassifierFree(denoiser, null_cond, w)`, which perturbs only the conditional prediction, this is
  null + w * (x0 - null) + scale * w * (x0 - perturbed).
  """

  denoiser: Denoiser
  scale: Scale = 0.0

  def __post_init__(self):
    check_in("(-inf, inf)", scale=self.scale)

  def predict(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Denoised:
    """The guided x0, with the unperturbed network's unguided x0 and variance; cond is None or a dict."""
    conds = [(cond or {}) | {"perturb": jnp.full(x.shape[0], flag)} for flag in (False, True)]
    both = stacked(self.denoiser, x, sigma, conds, key)
    x0, perturbed = both.x0
    return Denoised(x0 + expand(at_level(self.scale, sigma), x0) * (x0 - perturbed), x0, of_first(both.variance))
