"""The residual block of Stable Diffusion's networks."""

import flax.linen as nn
import jax.numpy as jnp

from diffjax.networks.layers import Conv, Dense, GroupNorm
from diffjax.typing import Array


class ResidualBlock(nn.Module):
  """x + conv(silu(norm(conv(silu(norm(x))) + emb))), where emb [B, E], if given, is projected: [B, H, W, features]."""

  features: int
  num_groups: int
  norm_eps: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Array, emb: Array | None = None) -> Array:
    norm = lambda name: GroupNorm(self.num_groups, self.norm_eps, least=1, name=name)
    h = Conv(self.features, dtype=self.dtype, name="conv_0")(nn.silu(norm("norm_0")(x)))
    if emb is not None:
      h = h + Dense(self.features, dtype=self.dtype, name="emb")(emb)[:, None, None]
    h = Conv(self.features, zero_init=True, dtype=self.dtype, name="conv_1")(nn.silu(norm("norm_1")(h)))
    if x.shape[-1] != self.features:
      x = Dense(self.features, dtype=self.dtype, name="shortcut")(x)
    return x + h
