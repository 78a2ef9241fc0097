"""The objective of an autoencoder: reconstruction, and latents that stay near the standard normal distribution."""

from typing import Any

import jax
import jax.numpy as jnp

from diffjax import losses, randomness, struct
from diffjax.codecs import to_float
from diffjax.losses import mean_flat
from diffjax.networks import ImageFeatures
from diffjax.training import augmentation
from diffjax.typing import Array, PyTree

DISCRIMINATOR = "discriminator"
"""The key of the discriminator's parameters, beside the autoencoder's own "params"."""
MAX_BALANCE = 1e4
"""The weight of the adversarial term is at most this, times `adversarial_weight`."""


@struct.dataclass
class AutoencoderObjective:
  """|x - y| + (x - y)^2 per pixel, plus kl_weight times the KL divergence per pixel: (losses [b], metrics).

  The two are summed over an image in Rombach et al. 2022 (appendix G); dividing both by its number of pixels and
  channels keeps their ratio. A batch has "image" [b, H, W, C] uint8 or float in [-1, 1], and "index" int32 [b].

  Two more terms on request, as there. Perceptual: the distance of x and y in the hidden states of an image encoder,
  `frozen`. Adversarial: a discriminator of patches, whose parameters lie in params["discriminator"], learns in the same
  step to tell x from y; the autoencoder learns to make y pass for real, each image with a weight that makes this
  gradient with respect to y `adversarial_weight` times as large as that of the reconstruction (Esser et al. 2021, eq.
  7, there with respect to the decoder's last layer).

  Attributes:
    kl_weight: of the divergence.
    perceptual_weight: of the perceptual distance.
    adversarial_weight: the gradient of the adversarial term, as a fraction of the reconstruction's.
    module: a `networks.AutoencoderKL`.
    discriminator: a `networks.PatchDiscriminator`, or None.
    flip: mirror half of the images in training.
    train: whether latents are sampled and the discriminator takes part; otherwise their means are decoded.
  """

  kl_weight: Array | float = 1e-6
  perceptual_weight: Array | float = 0.0
  adversarial_weight: Array | float = 0.5
  module: Any = struct.field(pytree_node=False, default=None)
  discriminator: Any = struct.field(pytree_node=False, default=None)
  flip: bool = struct.field(pytree_node=False, default=False)
  train: bool = struct.field(pytree_node=False, default=True)

  def __call__(
    self, params: PyTree, batch: PyTree, key: Array, *, frozen: PyTree = None, axis_name: str | None = None
  ) -> tuple[Array, dict[str, Array]]:
    del axis_name  # not used: each example's loss is independent of the others
    key_flip, key_latents = randomness.split(randomness.fold_in_each(key, batch["index"]))
    images = batch["image"]
    images = to_float(images) if images.dtype == jnp.uint8 else images
    images = augmentation.flip(key_flip, images) if self.flip and self.train else images
    own = params if self.discriminator is None else {"params": params["params"]}
    latents = self.module.apply(own, images, method="encode")
    z = latents.sample(key_latents) if self.train else latents.mean
    made = self.module.apply(own, z, method="decode")

    def reconstruction(made):
      error = made - images
      loss = mean_flat(jnp.abs(error) + jnp.square(error))
      return loss if frozen is None else loss + self.perceptual_weight * perceptual(frozen, images, made)

    kl = latents.kl() / images[0].size
    loss = reconstruction(made) + self.kl_weight * kl
    metrics = {"psnr": psnr(mean_flat(jnp.square(made - images))), "kl": kl}
    if self.discriminator is None or not self.train:
      return loss, metrics
    judge = lambda params, images: self.discriminator.apply({"params": params}, images)
    judged = params[DISCRIMINATOR]
    passing = lambda made: losses.adversarial.generator(judge(jax.lax.stop_gradient(judged), made))
    fixed = jax.lax.stop_gradient(made)
    size = lambda loss: jnp.sqrt(jnp.square(jax.grad(lambda made: loss(made).sum())(fixed)).sum(axis=(1, 2, 3)))
    pull, push = size(reconstruction), size(passing)
    balance = pull / (push + pull / MAX_BALANCE + 1e-12)
    discriminator_loss = losses.adversarial.hinge(judge(judged, images), judge(judged, fixed))
    metrics |= {"discriminator": discriminator_loss}
    return loss + self.adversarial_weight * balance * passing(made) + discriminator_loss, metrics


def perceptual(encoder: ImageFeatures, x: Array, y: Array) -> Array:
  """Squared distance of images [b, H, W, C] in an encoder's hidden states, each scaled to unit length: [b].

  The mean over positions and layers (Zhang et al. 2018, eq. 1, with equal weights).
  """
  pairs = zip(encoder.hidden(x), encoder.hidden(y))
  return jnp.stack([jnp.square(a - b).sum(axis=-1).mean(axis=-1) for a, b in pairs]).mean(axis=0)


def psnr(squared_error: Array) -> Array:
  """Peak signal-to-noise ratio in dB, of images in [-1, 1] with this mean squared error."""
  return 10 * jnp.log10(4 / squared_error)
