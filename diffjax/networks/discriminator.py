"""Networks that tell real images from made ones."""

import flax.linen as nn
import jax.numpy as jnp

from diffjax.networks.layers import GroupNorm
from diffjax.typing import Array

SLOPE = 0.2


class PatchDiscriminator(nn.Module):
  """Judges overlapping patches of an image: [B, H, W, C] in [-1, 1] -> logits float32 [B, h, w, 1], real above 0.

  Strided 4x4 convolutions, as many as there are `layers`, each doubling the width up to eight times the first, then two
  of stride 1 (Isola et al. 2017, appendix 6.1.2: 70x70 pixels with three layers). Their batch norm is a group norm
  here, so that the logits of an image do not depend on its batch.

  Attributes:
    width: channels after the first convolution.
    layers: number of strided convolutions.
    num_groups: of the group norms.
    dtype: of the computation.
  """

  width: int = 64
  layers: int = 3
  num_groups: int = 32
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = nn.leaky_relu(self._conv(self.width, 2, "conv_in")(x), SLOPE)
    for i in range(1, self.layers + 1):
      stride = 2 if i < self.layers else 1
      x = self._conv(self.width * 2 ** min(i, 3), stride, f"conv_{i}", use_bias=False)(x)
      x = nn.leaky_relu(GroupNorm(self.num_groups, name=f"norm_{i}")(x), SLOPE)
    return self._conv(1, 1, "conv_out")(x).astype(jnp.float32)

  def _conv(self, features, stride, name, use_bias=True):
    return nn.Conv(
      features, (4, 4), stride, padding=1, use_bias=use_bias, dtype=self.dtype,
      kernel_init=nn.initializers.normal(0.02), name=name,
    )  # fmt: skip
