import jax.numpy as jnp

from diffjax import struct
from diffjax.batching import expand
from diffjax.guidance.stacking import stacked
from diffjax.typing import Array, Cond, Denoiser


@struct.dataclass
class PerturbedAttention:
  """Perturbed-attention guidance (Ahn et al. 2024): x0 + scale * (x0 - perturbed); needs no label and no null label.

  The perturbed prediction is that of the same network with the identity for self-attention maps, which it uses for the
  samples whose cond["perturb"] is True; `networks.UNet` does so in the blocks of its field `perturbed_blocks`. One
  network call on the doubled batch. Scale 0 is the unguided model; [] or [B].
  """

  denoiser: Denoiser
  scale: float = 0.0

  def __call__(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Array:
    """x0 [B, ...] at x [B, ...], sigma [] or [B]; cond is None or a dict."""
    conds = [(cond or {}) | {"perturb": jnp.full(x.shape[0], flag)} for flag in (False, True)]
    x0, perturbed = stacked(self.denoiser, x, sigma, conds, key)
    return x0 + expand(self.scale, x) * (x0 - perturbed)
