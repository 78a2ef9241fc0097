"""The autoencoder of latent diffusion (Rombach et al. 2022; Esser et al. 2021, without its codebook)."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from diffjax import randomness, struct
from diffjax.networks.attention import MultiHeadAttention
from diffjax.networks.layers import Conv, Dense, GroupNorm
from diffjax.networks.residual import ResidualBlock
from diffjax.typing import Array

NORM_EPS = 1e-6
LOG_VARIANCES = (-30.0, 20.0)


@struct.dataclass
class Gaussian:
  """A normal distribution with independent entries: mean and log_variance [B, h, w, C]."""

  mean: Array
  log_variance: Array

  def sample(self, keys: Array) -> Array:
    """A sample [B, h, w, C]; keys [B]."""
    return self.mean + jnp.exp(0.5 * self.log_variance) * randomness.normal(keys, self.mean.shape)

  @classmethod
  def of(cls, moments: Array) -> "Gaussian":
    """From moments [B, h, w, 2 C], means before log-variances, the latter clipped as published."""
    mean, log_variance = jnp.split(moments, 2, axis=-1)
    return cls(mean, jnp.clip(log_variance, *LOG_VARIANCES))

  def kl(self) -> Array:
    """The Kullback-Leibler divergence from the standard normal distribution, summed over entries: [B], in nats."""
    terms = jnp.square(self.mean) + jnp.exp(self.log_variance) - 1 - self.log_variance
    return 0.5 * terms.sum(axis=(1, 2, 3))


class PixelAttention(nn.Module):
  """x + attention(norm(x)) among the pixels of x [B, H, W, C], with a single head."""

  num_groups: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Array) -> Array:
    B, H, W, C = x.shape
    h = GroupNorm(self.num_groups, NORM_EPS, least=1, name="norm")(x).reshape(B, H * W, C)
    return x + MultiHeadAttention(1, qkv_bias=True, dtype=self.dtype, name="attention")(h).reshape(x.shape)


class Encoder(nn.Module):
  """Images [B, H, W, C] -> [B, h, w, features]; H and W are halved between levels, rounded down."""

  features: int
  widths: Sequence[int]
  layers_per_level: int
  middle_attention: bool
  num_groups: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, images: Array) -> Array:
    x = Conv(self.widths[0], dtype=self.dtype, name="conv_in")(images)
    for level, width in enumerate(self.widths):
      for i in range(self.layers_per_level):
        x = _block(self, width, f"down_{level}_block_{i}")(x)
      if level < len(self.widths) - 1:
        x = Conv(width, stride=2, dtype=self.dtype, name=f"down_{level}_downsample")(x)
    x = _middle(self, x)
    return _out(self, x, self.features)


class Decoder(nn.Module):
  """Latents [B, h, w, C] -> [B, H, W, features]; h and w are doubled between levels."""

  features: int
  widths: Sequence[int]
  layers_per_level: int
  middle_attention: bool
  num_groups: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, z: Array) -> Array:
    x = Conv(self.widths[-1], dtype=self.dtype, name="conv_in")(z)
    x = _middle(self, x)
    for level, width in reversed(list(enumerate(self.widths))):
      for i in range(self.layers_per_level + 1):
        x = _block(self, width, f"up_{level}_block_{i}")(x)
      if level:
        x = Conv(width, dtype=self.dtype, upsampled=True, name=f"up_{level}_upsample")(x)
    return _out(self, x, self.features)


def _block(network, width, name):
  return ResidualBlock(width, network.num_groups, NORM_EPS, network.dtype, name=name)


def _middle(network, x):
  x = _block(network, x.shape[-1], "middle_block_0")(x)
  if network.middle_attention:
    x = PixelAttention(network.num_groups, network.dtype, name="middle_attention")(x)
  return _block(network, x.shape[-1], "middle_block_1")(x)


def _out(network, x, features):
  x = nn.silu(GroupNorm(network.num_groups, NORM_EPS, least=1, name="norm_out")(x))
  return Conv(features, dtype=network.dtype, name="conv_out")(x).astype(jnp.float32)


class AutoencoderKL(nn.Module):
  """An autoencoder whose latents are normal distributions near the standard one (Rombach et al. 2022, section 3.1).

  `apply(params, images, method="encode")` and `apply(params, z, method="decode")` run one half.

  Attributes:
    channels: of the images.
    latent_channels: of the latents.
    widths: channels of each level, from the images' resolution downwards; latents are smaller by 2 ** (levels - 1).
    layers_per_level: residual blocks of the encoder's levels; the decoder's have one more.
    middle_attention: whether pixels attend to each other at the lowest resolution.
    quant_conv: whether the encoder's output passes through a 1x1 convolution.
    post_quant_conv: whether latents do so before the decoder.
    num_groups: of the group norms.
    dtype: of the computation.
  """

  channels: int = 3
  latent_channels: int = 4
  widths: Sequence[int] = (128, 256, 512, 512)
  layers_per_level: int = 2
  middle_attention: bool = True
  quant_conv: bool = True
  post_quant_conv: bool = True
  num_groups: int = 32
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    shape = (self.widths, self.layers_per_level, self.middle_attention, self.num_groups, self.dtype)
    self.encoder, self.decoder = Encoder(2 * self.latent_channels, *shape), Decoder(self.channels, *shape)
    if self.quant_conv:
      self.quant = Dense(2 * self.latent_channels)
    if self.post_quant_conv:
      self.post_quant = Dense(self.latent_channels)

  @property
  def downscaling(self) -> int:
    """How many pixels a latent's side spans."""
    return 2 ** (len(self.widths) - 1)

  def __call__(self, images: Array, keys: Array | None = None) -> Array:
    """Images [B, H, W, C] -> their reconstruction, from a sample by keys [B], or without keys from the mean."""
    return self.decode(self.latents(images, keys))

  def encode(self, images: Array) -> Gaussian:
    """Images [B, H, W, C] in [-1, 1] -> the distribution of their latents [B, h, w, latent_channels].

    Errors are those of `moments`.
    """
    return Gaussian.of(self.moments(images))

  def moments(self, images: Array) -> Array:
    """Images [B, H, W, C] in [-1, 1] -> means and log-variances of their latents, [B, h, w, 2 * latent_channels].

    Raises:
      ValueError: H or W is no multiple of `downscaling`, or C is not `channels`.
    """
    _, H, W, C = images.shape
    if H % self.downscaling or W % self.downscaling or C != self.channels or 0 in images.shape:
      raise ValueError(
        f"the autoencoder got images {images.shape}, expected [B, H, W, {self.channels}] with H and W multiples of"
        f" {self.downscaling}; crop or pad them."
      )
    moments = self.encoder(images)
    return self.quant(moments) if self.quant_conv else moments

  def latents(self, images: Array, keys: Array | None = None) -> Array:
    """Images [B, H, W, C] in [-1, 1] -> the mean of their latents, or with keys [B] a sample."""
    latents = self.encode(images)
    return latents.mean if keys is None else latents.sample(keys)

  def decode(self, z: Array) -> Array:
    """Latents [B, h, w, latent_channels] -> images [B, H, W, C], in [-1, 1] up to the decoder's error."""
    return self.decoder(self.post_quant(z) if self.post_quant_conv else z)
