"""Dot-product attention, and the residual attention blocks of a U-Net."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from diffjax.networks.layers import Dense, GroupNorm
from diffjax.typing import Array


def attend(q: Array, k: Array, v: Array, *, causal: bool = False) -> Array:
  """softmax(q k^T / sqrt(d)) v for q [B, L, heads, d] and k, v [B, S, heads, d]: [B, L, heads, d].

  With causal, each position attends to itself and those before it (Vaswani et al. 2017, eq. 1 and section 3.2.3). Uses
  `jax.nn.dot_product_attention`, except on CPU, where an explicit softmax is faster.
  """
  explicit = functools.partial(explicit_attention, causal=causal)
  fused = functools.partial(jax.nn.dot_product_attention, is_causal=causal)
  return lax.platform_dependent(q, k, v, cpu=explicit, default=fused)


def explicit_attention(q: Array, k: Array, v: Array, *, causal: bool = False) -> Array:
  """The same as `attend`, heads first, with its softmax in float32."""
  q, k, v = (a.swapaxes(1, 2) for a in (q * (q.shape[-1] ** -0.5), k, v))
  logits = lax.dot_general(q, k, (((3,), (3,)), ((0, 1), (0, 1))), preferred_element_type=jnp.float32)
  if causal:
    seen = jnp.tri(q.shape[2], k.shape[2], dtype=bool)
    logits = jnp.where(seen[None, None], logits, -jnp.inf)
  weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
  return (weights @ v).swapaxes(1, 2)


class SelfAttention(nn.Module):
  """x + proj(attention(norm(x))) over the pixels of x [B, H, W, C], with the projection initialised to zero.

  Where perturb [B] is True, each pixel attends only to itself (perturbed-attention guidance, Ahn et al. 2024).
  """

  num_heads: int
  num_groups: int
  norm_eps: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Array, perturb: Array | None = None) -> Array:
    B, H, W, C = x.shape
    h = GroupNorm(self.num_groups, self.norm_eps, name="norm")(x).reshape(B, H * W, C)
    qkv = Dense(3 * C, dtype=self.dtype, name="qkv")(h).reshape(B, H * W, 3, self.num_heads, C // self.num_heads)
    h = attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
    if perturb is not None:
      h = jnp.where(perturb[:, None, None, None], qkv[:, :, 2], h)
    h = h.reshape(B, H, W, C)
    return x + Dense(C, zero_init=True, dtype=self.dtype, name="proj")(h)


class CrossAttention(nn.Module):
  """x + proj(attention(norm(x), context)): pixels of x [B, H, W, C] attend to context [B, L, D]."""

  num_heads: int
  num_groups: int
  norm_eps: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Array, context: Array) -> Array:
    B, H, W, C = x.shape
    heads = (self.num_heads, C // self.num_heads)
    h = GroupNorm(self.num_groups, self.norm_eps, name="norm")(x)
    q = Dense(C, dtype=self.dtype, name="q")(h).reshape(B, H * W, *heads)
    kv = Dense(2 * C, dtype=self.dtype, name="kv")(context).reshape(B, context.shape[1], 2, *heads)
    h = attend(q, kv[:, :, 0], kv[:, :, 1]).reshape(B, H, W, C)
    return x + Dense(C, zero_init=True, dtype=self.dtype, name="proj")(h)
