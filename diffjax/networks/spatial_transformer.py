"""The spatial transformer of latent diffusion (Rombach et al. 2022, appendix E.2.1)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffjax.networks.attention import MultiHeadAttention
from diffjax.networks.layers import Dense, GroupNorm
from diffjax.networks.transformer import layer_norm
from diffjax.typing import Array

EXPANSION = 4
GROUP_NORM_EPS, LAYER_NORM_EPS = 1e-6, 1e-5


class GEGLU(nn.Module):
  """x [..., C] -> value * gelu(gate) of 4 C channels -> [..., C] (Shazeer 2020, eq. 6), with the exact gelu."""

  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Array) -> Array:
    C = x.shape[-1]
    value, gate = jnp.split(Dense(2 * EXPANSION * C, dtype=self.dtype, name="dense_0")(x), 2, axis=-1)
    return Dense(C, dtype=self.dtype, name="dense_1")(value * jax.nn.gelu(gate, approximate=False))


class TransformerBlock(nn.Module):
  """Self-attention, cross-attention and GEGLU, each pre-normed and added to x [B, L, C].

  With only_cross_attention the first attends to the context too.
  """

  num_heads: int
  only_cross_attention: bool
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Array, context: Array) -> Array:
    norm = lambda i: layer_norm(LAYER_NORM_EPS, self.dtype, f"norm_{i}")(x)
    attention = lambda i: MultiHeadAttention(self.num_heads, dtype=self.dtype, name=f"attention_{i}")
    x = x + attention(0)(norm(0), context if self.only_cross_attention else None)
    x = x + attention(1)(norm(1), context)
    return x + GEGLU(self.dtype, name="mlp")(norm(2))


class SpatialTransformer(nn.Module):
  """x + project(blocks(project(norm(x)))) over the pixels of x [B, H, W, C], which attend to context [B, S, D]."""

  depth: int
  num_heads: int
  only_cross_attention: bool
  num_groups: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Array, context: Array) -> Array:
    B, H, W, C = x.shape
    h = GroupNorm(self.num_groups, GROUP_NORM_EPS, least=1, name="norm")(x).reshape(B, H * W, C)
    h = Dense(C, dtype=self.dtype, name="proj_in")(h)
    for i in range(self.depth):
      h = TransformerBlock(self.num_heads, self.only_cross_attention, self.dtype, name=f"block_{i}")(h, context)
    return x + Dense(C, zero_init=True, dtype=self.dtype, name="proj_out")(h).reshape(x.shape)
