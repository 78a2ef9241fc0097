"""TAESD, a small autoencoder distilled from Stable Diffusion's, for previews (Ollin Boer Bohan 2023)."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from diffjax.networks.layers import Conv
from diffjax.typing import Array

LATENT_RANGE = 3.0


class TinyBlock(nn.Module):
  """relu(x + conv(relu(conv(relu(conv(x)))))), all of x's width."""

  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Array) -> Array:
    conv = lambda i: Conv(x.shape[-1], dtype=self.dtype, name=f"conv_{i}")
    return nn.relu(x + conv(2)(nn.relu(conv(1)(nn.relu(conv(0)(x))))))


class TinyEncoder(nn.Module):
  """Images [B, H, W, C] in [0, 1] -> [B, h, w, features]; each level but the first halves H and W, rounded up."""

  features: int
  width: int
  blocks: Sequence[int]
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, images: Array) -> Array:
    x = Conv(self.width, dtype=self.dtype, name="conv_in")(images)
    for level, blocks in enumerate(self.blocks):
      if level:
        conv = Conv(self.width, 2, use_bias=False, centred=True, dtype=self.dtype, name=f"level_{level}_downsample")
        x = conv(x)
      for i in range(blocks):
        x = TinyBlock(self.dtype, name=f"level_{level}_block_{i}")(x)
    return Conv(self.features, dtype=self.dtype, name="conv_out")(x).astype(jnp.float32)


class TinyDecoder(nn.Module):
  """Latents [B, h, w, C] -> images [B, H, W, features] in [0, 1]; each level but the last doubles h and w."""

  features: int
  width: int
  blocks: Sequence[int]
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, z: Array) -> Array:
    x = nn.relu(Conv(self.width, dtype=self.dtype, name="conv_in")(z))
    for level, blocks in enumerate(self.blocks):
      for i in range(blocks):
        x = TinyBlock(self.dtype, name=f"level_{level}_block_{i}")(x)
      if level < len(self.blocks) - 1:
        conv = Conv(self.width, use_bias=False, upsampled=True, dtype=self.dtype, name=f"level_{level}_upsample")
        x = conv(x)
    return Conv(self.features, dtype=self.dtype, name="conv_out")(x).astype(jnp.float32)


class TinyAutoencoder(nn.Module):
  """TAESD: latents of Stable Diffusion's scaled space, deterministic, at a fraction of the cost.

  Attributes:
    channels: of the images.
    latent_channels: of the latents.
    width: channels of every level.
    blocks: of the encoder's levels, from the images' resolution downwards; the decoder's, from the latents' upwards,
      are `decoder_blocks`.
    dtype: of the computation.
  """

  channels: int = 3
  latent_channels: int = 4
  width: int = 64
  blocks: Sequence[int] = (1, 3, 3, 3)
  decoder_blocks: Sequence[int] = (3, 3, 3, 1)
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    self.encoder = TinyEncoder(self.latent_channels, self.width, self.blocks, self.dtype)
    self.decoder = TinyDecoder(self.channels, self.width, self.decoder_blocks, self.dtype)

  @property
  def downscaling(self) -> int:
    """How many pixels a latent's side spans."""
    return 2 ** (len(self.blocks) - 1)

  def __call__(self, images: Array) -> Array:
    """Images [B, H, W, C] -> their reconstruction."""
    return self.decode(self.encode(images))

  def encode(self, images: Array) -> Array:
    """Images [B, H, W, C] in [-1, 1] -> latents [B, h, w, latent_channels]."""
    return self.encoder(images / 2 + 0.5)

  def latents(self, images: Array, keys: Array | None = None) -> Array:
    """The same; keys are ignored, as the encoder is deterministic."""
    del keys
    return self.encode(images)

  def decode(self, z: Array) -> Array:
    """Latents [B, h, w, latent_channels] -> images [B, H, W, C], in [-1, 1] up to the decoder's error."""
    return self.decoder(LATENT_RANGE * jnp.tanh(z / LATENT_RANGE)) * 2 - 1
