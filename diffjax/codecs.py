"""Codecs between images and the x0 that a model is trained on.

A codec's images are float32 [B, H, W, C] in [-1, 1]; displayed and stored images are uint8.
"""

from typing import Any

import einops
import jax.numpy as jnp

from diffjax import struct
from diffjax.networks.autoencoder import Gaussian
from diffjax.typing import Array, PyTree


@struct.dataclass
class Pixels:
  """The codec of a pixel-space model: x0 is the image, or its square patches, one for each position.

  Attributes:
    patch: side of the patches.
  """

  patch: int = struct.field(pytree_node=False, default=1)

  @property
  def downscaling(self) -> int:
    """How many pixels a position of x0 spans."""
    return self.patch

  def encode(self, images: Array, key: Array | None = None) -> Array:
    """Images [B, H, W, C] in [-1, 1] -> x0 [B, H / patch, W / patch, patch * patch * C]."""
    return einops.rearrange(images, "B (h i) (w j) C -> B h w (i j C)", i=self.patch, j=self.patch)

  def decode(self, x0: Array) -> Array:
    """x0 -> images [B, H, W, C], in [-1, 1] up to the model's error."""
    return einops.rearrange(x0, "B h w (i j C) -> B (h i) (w j) C", i=self.patch, j=self.patch)


@struct.dataclass
class Latents:
  """The codec of a latent diffusion model: x0 = scale * (z - shift), of an autoencoder's latents z.

  The scale makes their variance about one (Rombach et al. 2022, section 4.3.2 and appendix G).

  Attributes:
    params: of the autoencoder.
    scale, shift: numbers, or arrays [C], one for each channel.
    module: the autoencoder, such as `networks.AutoencoderKL`.
    upcast: whether it must not run in float16, where most of them overflow.
  """

  params: PyTree
  scale: Array | float = 1.0
  shift: Array | float = 0.0
  module: Any = struct.field(pytree_node=False, default=None)
  upcast: bool = struct.field(pytree_node=False, default=True)

  @property
  def downscaling(self) -> int:
    """How many pixels a latent's side spans."""
    return self.module.downscaling

  def encode(self, images: Array, key: Array | None = None) -> Array:
    """Images [B, H, W, C] in [-1, 1] -> x0 [B, h, w, c]: the latents' mean, or with keys [B] a sample."""
    return self._scaled(self.module.apply(self.params, images, key, method="latents"))

  def moments(self, images: Array) -> Array:
    """Images [B, H, W, C] in [-1, 1] -> [B, h, w, 2 c], all that training needs of them; see `sample`."""
    return self.module.apply(self.params, images, method="moments")

  def sample(self, moments: Array, key: Array | None) -> Array:
    """Stored moments [B, h, w, 2 c] of images -> x0 [B, h, w, c], as `encode` returns it."""
    latents = Gaussian.of(moments.astype(jnp.float32))
    return self._scaled(latents.mean if key is None else latents.sample(key))

  def decode(self, x0: Array) -> Array:
    """x0 [B, h, w, c] -> images [B, H, W, C], in [-1, 1] up to the autoencoder's error."""
    z = x0 / self._per_channel(self.scale) + self._per_channel(self.shift)
    return self.module.apply(self.params, z, method="decode")

  def _scaled(self, z):
    return (z - self._per_channel(self.shift)) * self._per_channel(self.scale)

  @staticmethod
  def _per_channel(value):
    return jnp.asarray(value, jnp.float32).reshape(1, 1, 1, -1)


def to_float(images: Array) -> Array:
  """uint8 0..255 -> float32 [-1, 1]."""
  return images.astype(jnp.float32) / 127.5 - 1


def to_uint8(images: Array) -> Array:
  """float [-1, 1], clipped -> uint8 0..255."""
  return jnp.round(jnp.clip(images * 127.5 + 127.5, 0, 255)).astype(jnp.uint8)
