"""The objective of an autoencoder: reconstruction, and latents that stay near the standard normal distribution."""

from typing import Any

import jax.numpy as jnp

from diffjax import randomness, struct
from diffjax.codecs import to_float
from diffjax.training import augmentation
from diffjax.typing import Array, PyTree


@struct.dataclass
class AutoencoderObjective:
  """|x - y| + (x - y)^2 per pixel, plus kl_weight times the KL divergence per pixel: (losses [b], metrics).

  The two are summed over an image in Rombach et al. 2022 (appendix G); dividing both by its number of pixels and
  channels keeps their ratio. A batch has "image" [b, H, W, C] uint8 or float in [-1, 1], and "index" int32 [b].

  Attributes:
    kl_weight: of the divergence.
    module: a `networks.AutoencoderKL`.
    flip: mirror half of the images in training.
    train: whether latents are sampled; otherwise their means are decoded.
  """

  kl_weight: Array | float = 1e-6
  module: Any = struct.field(pytree_node=False, default=None)
  flip: bool = struct.field(pytree_node=False, default=False)
  train: bool = struct.field(pytree_node=False, default=True)

  def __call__(
    self, params: PyTree, batch: PyTree, key: Array, *, frozen: PyTree = None, axis_name: str | None = None
  ) -> tuple[Array, dict[str, Array]]:
    del frozen, axis_name  # not used: each example's loss is independent of the others
    key_flip, key_latents = randomness.split(randomness.fold_in_each(key, batch["index"]))
    images = batch["image"]
    images = to_float(images) if images.dtype == jnp.uint8 else images
    images = augmentation.flip(key_flip, images) if self.flip and self.train else images
    latents = self.module.apply(params, images, method="encode")
    z = latents.sample(key_latents) if self.train else latents.mean
    error = self.module.apply(params, z, method="decode") - images
    mean = lambda a: a.mean(axis=(1, 2, 3))
    kl = latents.kl() / images[0].size
    squared = mean(jnp.square(error))
    return mean(jnp.abs(error)) + squared + self.kl_weight * kl, {"psnr": psnr(squared), "kl": kl}


def psnr(squared_error: Array) -> Array:
  """Peak signal-to-noise ratio in dB, of images in [-1, 1] with this mean squared error."""
  return 10 * jnp.log10(4 / squared_error)
