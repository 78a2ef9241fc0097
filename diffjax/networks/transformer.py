"""The pre-norm transformer of both CLIP towers, and SigLIP's attention pooling."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffjax.networks.attention import attend
from diffjax.networks.layers import Dense, glorot_uniform
from diffjax.typing import Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # Hendrycks & Gimpel 2016, section 2
  "gelu": lambda x: jax.nn.gelu(x, approximate=False),
  "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


def layer_norm(eps: float, dtype: jnp.dtype, name: str | None) -> nn.LayerNorm:
  """Layer normalisation with its variance computed from deviations from the mean, in float32 (Ba et al. 2016)."""
  return nn.LayerNorm(epsilon=eps, dtype=dtype, use_fast_variance=False, name=name)


class Attention(nn.Module):
  """Multi-head self-attention of x [B, L, C]: [B, L, C]."""

  heads: int
  causal: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    B, L, C = x.shape
    qkv = Dense(3 * C, dtype=self.dtype, name="qkv")(x).reshape(B, L, 3, self.heads, C // self.heads)
    y = attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], causal=self.causal)
    return Dense(C, dtype=self.dtype, name="proj")(y.reshape(B, L, C))


class MLP(nn.Module):
  """x [..., C] -> width channels -> activation -> [..., C]."""

  width: int
  activation: str
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    h = ACTIVATIONS[self.activation](Dense(self.width, dtype=self.dtype, name="dense_0")(x))
    return Dense(x.shape[-1], dtype=self.dtype, name="dense_1")(h)


class Transformer(nn.Module):
  """Layers of x + attention(norm(x)), then x + mlp(norm(x)), over x [B, L, C] (Radford et al. 2019, section 2.3).

  Returns all hidden states: the input, then each layer's output, layers + 1 arrays [B, L, C].
  """

  layers: int
  heads: int
  mlp_width: int
  activation: str = "quick_gelu"
  causal: bool = False
  norm_eps: float = 1e-5
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> tuple[Array, ...]:
    hidden = [x]
    for i in range(self.layers):
      hidden.append(self._layer(hidden[-1], i))
    return tuple(hidden)

  def _layer(self, x, i):
    norm = lambda which: layer_norm(self.norm_eps, self.dtype, f"layer_{i}_norm_{which}")
    x = x + Attention(self.heads, self.causal, self.dtype, name=f"layer_{i}_attention")(norm(0)(x))
    return x + MLP(self.mlp_width, self.activation, self.dtype, name=f"layer_{i}_mlp")(norm(1)(x))


class AttentionPool(nn.Module):
  """One learned query attends to x [B, L, C], then a residual MLP: [B, C] (Zhai et al. 2022)."""

  heads: int
  mlp_width: int
  activation: str
  norm_eps: float
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    B, L, C = x.shape
    query = self.param("query", glorot_uniform, (1, 1, C), jnp.float32).astype(self.dtype)
    kernel = self.param("qkv_kernel", glorot_uniform, (C, 3 * C), jnp.float32).astype(self.dtype)
    bias = self.param("qkv_bias", nn.initializers.zeros, (3 * C,), jnp.float32).astype(self.dtype)
    heads = (self.heads, C // self.heads)
    q = jnp.dot(query, kernel[:, :C]) + bias[None, None, :C]
    q = jnp.broadcast_to(q, (B, 1, C)).reshape(B, 1, *heads)
    kv = (jnp.dot(x, kernel[:, C:]) + bias[None, None, C:]).reshape(B, L, 2, *heads)
    y = Dense(C, dtype=self.dtype, name="proj")(attend(q, kv[:, :, 0], kv[:, :, 1]).reshape(B, C))
    norm = layer_norm(self.norm_eps, self.dtype, "norm")
    return y + MLP(self.mlp_width, self.activation, self.dtype, name="mlp")(norm(y))
