"""The small parts that networks are made of: dense and convolution layers, group norm, embeddings, dropout."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..typing import Array
from .convolution import conv2d

glorot_uniform = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


def _init(zero_init: bool):
  return nn.initializers.zeros if zero_init else glorot_uniform


class Dense(nn.Module):
  """x [..., I] -> [..., features]; float32 parameters, computed in dtype."""

  features: int
  zero_init: bool = False
  use_bias: bool = True
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    kernel = self.param("kernel", _init(self.zero_init), (x.shape[-1], self.features), jnp.float32)
    y = jnp.dot(x.astype(self.dtype), kernel.astype(self.dtype))
    if not self.use_bias:
      return y
    bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
    return y + _channels(bias, y.ndim).astype(self.dtype)


class Conv(nn.Module):
  """x [B, H, W, I] -> [B, ceil(H / stride), ceil(W / stride), features] by a 3x3 convolution; computed in dtype."""

  features: int
  stride: int = 1
  zero_init: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    kernel = self.param("kernel", _init(self.zero_init), (3, 3, x.shape[-1], self.features), jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
    # DDPM's strided convolution pads behind only, so that each output sits on the first of its two pixels.
    padding = ((1, 1), (1, 1)) if self.stride == 1 else ((0, 1), (0, 1))
    y = conv2d(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, padding)
    return y + _channels(bias, 4).astype(self.dtype)


class GroupNorm(nn.Module):
  """Group normalisation of x [B, H, W, C], then optionally y * (1 + scale) + shift with scale, shift [B, C].

  At most num_groups groups of at least four channels each. Statistics in float32 whatever the dtype of x, which the
  output keeps (Wu & He 2018; scale and shift: Dhariwal & Nichol 2021, section 3.1).
  """

  num_groups: int = 32
  eps: float = 1e-6

  @nn.compact
  def __call__(self, x: Array, scale: Array | None = None, shift: Array | None = None) -> Array:
    C = x.shape[-1]
    weight = self.param("scale", nn.initializers.ones, (C,), jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, (C,), jnp.float32)
    mean, variance = group_statistics(x, group_count(C, self.num_groups))
    gain = jax.lax.rsqrt(variance + self.eps) * weight[None]
    offset = bias[None] - mean * gain
    if scale is not None:
      gain, offset = gain * (1 + scale), offset * (1 + scale) + shift
    y = x.astype(jnp.float32) * gain[:, None, None] + offset[:, None, None]
    return y.astype(x.dtype)


def group_count(channels: int, num_groups: int) -> int:
  """The largest divisor of channels that is at most num_groups and leaves four channels in a group."""
  return next(n for n in range(max(1, min(num_groups, channels // 4)), 0, -1) if channels % n == 0)


def group_statistics(x: Array, groups: int) -> tuple[Array, Array]:
  """Float32 mean and variance of each channel's group for x [B, H, W, C]: each [B, C].

  Pixels are reduced first and channels after, on a small [B, C] array. Deviations are from the channel's own mean,
  because the difference of the mean square and the squared mean loses every digit of a small variance.
  """
  x = x.astype(jnp.float32)
  B, C = x.shape[0], x.shape[-1]
  channel_mean = x.mean((1, 2))
  channel_variance = jnp.square(x - channel_mean[:, None, None]).mean((1, 2))
  grouped = channel_mean.reshape(B, groups, C // groups)
  mean = grouped.mean(2, keepdims=True)
  variance = channel_variance.reshape(grouped.shape).mean(2, keepdims=True)
  variance += jnp.square(grouped - mean).mean(2, keepdims=True)
  return tuple(jnp.broadcast_to(a, grouped.shape).reshape(B, C) for a in (mean, variance))


def dropout(x: Array, rate: float, key: Array | None) -> Array:
  """Zeroes entries of x [B, ...] with probability rate and divides the others by 1 - rate.

  key holds one typed PRNG key per example, [B], so that an example's mask does not depend on its batch; with None, x is
  returned as it is.
  """
  if key is None or rate == 0:
    return x
  keep = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - rate, x.shape[1:]))(key)
  return jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype))


def sinusoidal_embedding(t: Array, features: int, *, endpoint: bool = True) -> Array:
  """Sines, then cosines of t [B] at features // 2 frequencies falling geometrically from 1 to 1e-4: [B, features].

  endpoint=True reaches 1e-4 (Ho et al. 2020), False stops one step before it (Vaswani et al. 2017, section 3.5).
  """
  half = features // 2
  frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / (half - endpoint))
  angles = t.astype(jnp.float32)[:, None] * frequencies[None]
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class FourierEmbedding(nn.Module):
  """Cosines, then sines of t [B] at frozen frequencies 2 pi N(0, 16^2): [B, features] (Song et al. 2021, C.1)."""

  features: int

  @nn.compact
  def __call__(self, t: Array) -> Array:
    frequencies = self.param("frequencies", nn.initializers.normal(16.0), (self.features // 2,), jnp.float32)
    frequencies = 2 * math.pi * jax.lax.stop_gradient(frequencies)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def _channels(bias: Array, ndim: int) -> Array:
  return bias.reshape((1,) * (ndim - 1) + (-1,))
