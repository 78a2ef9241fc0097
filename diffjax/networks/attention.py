"""Dot-product attention, and the residual attention blocks of a U-Net."""

import functools

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from diffjax.networks.layers import Dense, GroupNorm
from diffjax.system.compilation import platform
from diffjax.typing import Array

MAX_LOGITS = 2**24
"""At most this many attention logits, 64 MiB, are held at once; queries beyond are computed in chunks."""


def attend(q: Array, k: Array, v: Array, *, causal: bool = False) -> Array:
  """softmax(q k^T / sqrt(d)) v for q [B, L, heads, d] and k, v [B, S, heads, d]: [B, L, heads, d].

  With causal, each position attends to itself and those before it (Vaswani et al. 2017, eq. 1 and section 3.2.3). On
  an NVIDIA GPU this is cuDNN's kernel, for head sizes and dtypes that it supports. Elsewhere at most MAX_LOGITS logits
  are in memory at once (Rabe & Staats 2021), also in the gradient.
  """
  if _fits_cudnn(q, k):
    return jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation="cudnn")
  B, L, heads, _ = q.shape
  chunks = -(-B * heads * L * k.shape[1] // MAX_LOGITS)
  if chunks == 1:
    explicit = functools.partial(explicit_attention, causal=causal)
    fused = functools.partial(jax.nn.dot_product_attention, is_causal=causal)
    return lax.platform_dependent(q, k, v, cpu=explicit, default=fused)
  length = -(-L // chunks)
  padded = jnp.pad(q, ((0, 0), (0, chunks * length - L), (0, 0), (0, 0)))
  parts = einops.rearrange(padded, "B (n l) h d -> n B l h d", n=chunks)
  chunk = jax.checkpoint(lambda args: explicit_attention(args[0], k, v, causal=causal, first=args[1]))
  parts = lax.map(chunk, (parts, length * jnp.arange(chunks)))
  return einops.rearrange(parts, "n B l h d -> B (n l) h d")[:, :L]


def explicit_attention(q: Array, k: Array, v: Array, *, causal: bool = False, first: Array | int = 0) -> Array:
  """The same as `attend`, heads first, with its softmax in float32; `first` is the position of the first query."""
  q, k, v = (a.swapaxes(1, 2) for a in (q * (q.shape[-1] ** -0.5), k, v))
  logits = lax.dot_general(q, k, (((3,), (3,)), ((0, 1), (0, 1))), preferred_element_type=jnp.float32)
  if causal:
    seen = jnp.arange(k.shape[2])[None] <= first + jnp.arange(q.shape[2])[:, None]
    logits = jnp.where(seen[None, None], logits, -jnp.inf)
  weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
  return (weights @ v).swapaxes(1, 2)


def _fits_cudnn(q, k):
  """Whether cuDNN has a kernel: 16 bits, and heads of a multiple of 8 up to 128 entries."""
  heads_fit = q.shape[-1] % 8 == 0 and q.shape[-1] <= 128
  return platform() == "gpu" and heads_fit and {q.dtype, k.dtype} <= {jnp.bfloat16, jnp.float16}


class MultiHeadAttention(nn.Module):
  """x [B, L, C] attends to context [B, S, D], by default to itself: [B, L, C] (Vaswani et al. 2017, section 3.2.2)."""

  num_heads: int
  qkv_bias: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array, context: Array | None = None) -> Array:
    context = x if context is None else context
    split = lambda a: einops.rearrange(a, "B L (h d) -> B L h d", h=self.num_heads)
    project = lambda name, a: split(Dense(x.shape[-1], use_bias=self.qkv_bias, dtype=self.dtype, name=name)(a))
    y = attend(project("q", x), project("k", context), project("v", context))
    return Dense(x.shape[-1], dtype=self.dtype, name="proj")(einops.rearrange(y, "B L h d -> B L (h d)"))


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
