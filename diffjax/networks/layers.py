"""The building blocks of networks: dense and convolution layers, group norm, embeddings, dropout."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from diffjax.networks.convolution import conv2d
from diffjax.networks.resample import upsampled_conv2d
from diffjax.randomness import alone
from diffjax.typing import Array

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
    # on CPU the gradient of a product with more axes takes twice as long
    y = jnp.dot(x.astype(self.dtype).reshape(-1, x.shape[-1]), kernel.astype(self.dtype))
    y = y.reshape(*x.shape[:-1], self.features)
    if not self.use_bias:
      return y
    bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
    return add_bias(y, bias.astype(self.dtype))


class Conv(nn.Module):
  """x [B, H, W, I] -> [B, ceil(H / stride), ceil(W / stride), features] by a 3x3 convolution; computed in dtype.

  A strided convolution pads only at the end, so that each output sits on the first of its two pixels (DDPM), or, if
  centred, on both sides (Stable Diffusion). If upsampled, the convolution reads x with its pixels doubled:
  [B, 2 H, 2 W, features].
  """

  features: int
  stride: int = 1
  zero_init: bool = False
  use_bias: bool = True
  centred: bool = False
  upsampled: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    kernel = self.param("kernel", _init(self.zero_init), (3, 3, x.shape[-1], self.features), jnp.float32)
    padding = ((1, 1), (1, 1)) if self.stride == 1 or self.centred else ((0, 1), (0, 1))
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    y = upsampled_conv2d(x, kernel) if self.upsampled else conv2d(x, kernel, self.stride, padding)
    if not self.use_bias:
      return y
    bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
    return add_bias(y, bias.astype(self.dtype))


@jax.custom_jvp
def add_bias(y: Array, bias: Array) -> Array:
  """y [..., C] + bias [C]; on CPU the gradient's long sum is a matrix product, which is faster there."""
  return y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


def _add_bias_jvp(primals, tangents):
  dy, dbias = tangents
  if isinstance(dbias, SymbolicZero):  # only the gradient with respect to images is wanted
    return add_bias(*primals), dy
  as_product = lambda bias: (jnp.ones((math.prod(dy.shape[:-1]), 1), bias.dtype) @ bias[None]).reshape(dy.shape)
  as_copies = lambda bias: jnp.broadcast_to(bias, dy.shape)
  rows = jax.lax.platform_dependent(dbias, cpu=as_product, default=as_copies)
  return add_bias(*primals), rows if isinstance(dy, SymbolicZero) else dy + rows


add_bias.defjvp(_add_bias_jvp, symbolic_zeros=True)


class GroupNorm(nn.Module):
  """Group normalisation of x [B, H, W, C], then optionally y * (1 + scale) + shift with scale, shift [B, C].

  At most num_groups groups of at least `least` channels each. Statistics are in float32 whatever the dtype of x; the
  output has x's dtype (Wu & He 2018; scale and shift: Dhariwal & Nichol 2021, section 3.1).
  """

  num_groups: int = 32
  eps: float = 1e-6
  least: int = 4

  @nn.compact
  def __call__(self, x: Array, scale: Array | None = None, shift: Array | float = 0.0) -> Array:
    C = x.shape[-1]
    weight = self.param("scale", nn.initializers.ones, (C,), jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, (C,), jnp.float32)
    gain, offset = weight[None], bias[None]
    if scale is not None:
      gain, offset = gain * (1 + scale), offset * (1 + scale) + shift
    gain, offset = (jnp.broadcast_to(a, (x.shape[0], C)) for a in (gain, offset))
    return normalise(materialise(x), gain, offset, group_count(C, self.num_groups, self.least), self.eps)


def materialise(x: Array) -> Array:
  """Materialises x on CPU; otherwise XLA recomputes it, and everything upstream, at each use."""
  return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def normalise(x: Array, gain: Array, offset: Array, groups: int, eps: float) -> Array:
  """(x - mean) / sqrt(variance + eps) * gain + offset over the groups of x [B, H, W, C], gain and offset [B, C].

  Value, tangent and gradient each need only sums over pixels and one multiply-add with [B, C] coefficients.
  """
  mean, inverse = _mean_and_inverse(x, groups, eps)
  slope = inverse * gain
  y = x.astype(jnp.float32) * _over_pixels(slope) + _over_pixels(offset - mean * slope)
  return y.astype(x.dtype)


@normalise.defjvp
def _normalise_jvp(groups, eps, primals, tangents):
  (x, gain, offset), (dx, dgain, doffset) = primals, tangents
  mean, inverse = _mean_and_inverse(x, groups, eps)
  z, dx = x.astype(jnp.float32) - _over_pixels(mean), materialise(dx).astype(jnp.float32)
  shared = lambda a: _over_groups(a.sum((1, 2)), groups) / (x.shape[1] * x.shape[2])
  level, tilt = shared(dx), shared(dx * z) * inverse**2  # changes of the mean and of the log standard deviation
  slope = inverse * gain
  dy = dx * _over_pixels(slope) + z * _over_pixels(dgain * inverse - slope * tilt)
  return normalise(x, gain, offset, groups, eps), (dy + _over_pixels(doffset - slope * level)).astype(x.dtype)


def _mean_and_inverse(x, groups, eps):
  mean, variance = group_statistics(x, groups)
  return mean, jax.lax.rsqrt(variance + eps)


def _over_pixels(a: Array) -> Array:
  return a[:, None, None]


def _over_groups(a: Array, groups: int) -> Array:
  """Each channel's group mean of a [B, C], as [B, C]."""
  grouped = a.reshape(a.shape[0], groups, -1)
  return jnp.broadcast_to(grouped.mean(2, keepdims=True), grouped.shape).reshape(a.shape)


def group_count(channels: int, num_groups: int, least: int = 4) -> int:
  """The largest divisor of channels that is at most num_groups and leaves at least `least` channels per group."""
  return next(n for n in range(max(1, min(num_groups, channels // least)), 0, -1) if channels % n == 0)


def group_statistics(x: Array, groups: int) -> tuple[Array, Array]:
  """Float32 mean and variance of each channel's group for x [B, H, W, C]: each [B, C].

  Pixels are reduced first, then channels, on a small [B, C] array. Deviations are from the channel's own mean, because
  the difference of the mean square and the squared mean loses all digits of a small variance.
  """
  x = x.astype(jnp.float32)
  channel_mean = _pixel_mean(x)
  channel_variance = _pixel_mean(jnp.square(x - _over_pixels(channel_mean)))
  mean = _over_groups(channel_mean, groups)
  return mean, _over_groups(channel_variance + jnp.square(channel_mean - mean), groups)


def _pixel_mean(a):
  """The mean over pixels of a [B, H, W, C]: [B, C]; on CPU row by row, which is faster there."""
  return jax.lax.platform_dependent(a, cpu=lambda a: a.mean(2).mean(1), default=lambda a: a.mean((1, 2)))


def dropout(x: Array, rate: float, key: Array | None) -> Array:
  """Zeroes entries of x [B, ...] with probability rate and divides the others by 1 - rate.

  key holds one typed PRNG key per example, [B], so that an example's mask does not depend on its batch; with None, x
  is returned unchanged.
  """
  if key is None or rate == 0:
    return x
  keep = jax.vmap(alone(lambda k: jax.random.bernoulli(k, 1 - rate, x.shape[1:])))(key)
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
