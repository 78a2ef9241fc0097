"""The objective of CLIP: labelled pictures, captions of their classes, one loss per picture."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import arrays, randomness, struct
from diffjax.cluster import devices
from diffjax.codecs import to_float
from diffjax.losses.contrastive import sigmoid_losses, softmax_losses
from diffjax.networks.image_features import prepare
from diffjax.training import augmentation
from diffjax.typing import Array, PyTree


@struct.dataclass
class ContrastiveObjective:
  """Contrastive loss over the global batch: (params, batch, key) -> (losses [b], {}).

  Each picture is paired with a caption of its class from a random template; all pairs of the same class are positives.
  The random numbers of an example come from `key` and its "index" in the global batch.

  Attributes:
    tokens: int32 [templates, classes, L], the captions.
    noise_levels: uniform numbers [b] -> sigma [b] of the noise added to pictures. Half of the noised pictures are then
      denoised by `ideal_denoiser` of the batch, as guidance shows CLIP partially denoised pictures. None: no noise.
    module: a `networks.CLIP`.
    shift: the most pixels that pictures are shifted by.
    flip: mirror half of the pictures.
    sigmoid: SigLIP's loss instead of CLIP's.
    train: whether pictures are augmented.
  """

  tokens: Array | np.ndarray
  noise_levels: Any = None
  module: Any = struct.field(pytree_node=False, default=None)
  shift: int = struct.field(pytree_node=False, default=0)
  flip: bool = struct.field(pytree_node=False, default=False)
  sigmoid: bool = struct.field(pytree_node=False, default=False)
  train: bool = struct.field(pytree_node=False, default=True)

  def __call__(
    self, params: PyTree, batch: PyTree, key: Array, *, frozen: PyTree = None, axis_name: str | None = None
  ) -> tuple[Array, dict[str, Array]]:
    del frozen  # not used
    key_template, key_picture = randomness.split(randomness.fold_in_each(key, batch["index"]))
    template = randomness.choice(key_template, self.tokens.shape[0])
    tokens = jnp.asarray(self.tokens)[template, batch["label"]]
    images = self._augment(batch["image"], key_picture, axis_name)
    images = prepare(images, self.module.image)
    apply = lambda method, *inputs: self.module.apply(params, *inputs, method=method)
    pictures, texts = apply("encode_image", images).features, apply("encode_text", tokens).features
    all_pictures, all_texts, labels = devices.gather((pictures, texts, batch["label"]), axis_name)
    pairs = batch["label"][:, None] == labels[None]
    if self.sigmoid:
      return sigmoid_losses(apply("similarity", pictures, all_texts), pairs), {}
    to_texts, to_pictures = apply("similarity", pictures, all_texts), apply("similarity", texts, all_pictures)
    return (softmax_losses(to_texts, pairs) + softmax_losses(to_pictures, pairs)) / 2, {}

  def _augment(self, images, keys, axis_name=None):
    x0 = to_float(images)
    if not self.train:
      return x0
    key_flip, key_shift, key_level, key_noise, key_denoise = randomness.split(keys, 5)
    x0 = augmentation.flip(key_flip, x0) if self.flip else x0
    x0 = augmentation.shift(key_shift, x0, self.shift)
    if self.noise_levels is None:
      return x0
    sigma = self.noise_levels(randomness.uniform(key_level))
    x = x0 + arrays.expand(sigma, x0) * randomness.normal(key_noise, x0.shape)
    denoised = arrays.expand(randomness.uniform(key_denoise) < 0.5, x)
    return jnp.where(denoised, ideal_denoiser(x, sigma, devices.gather(x0, axis_name)), x)


def ideal_denoiser(x: Array, sigma: Array, data: Array) -> Array:
  """The posterior mean of x [B, ...] at sigma [B] over the pictures `data` [N, ...] (Karras et al. 2022, eq. 57).

  A picture's weight is the density at x of a normal distribution around it with standard deviation sigma.
  """
  distances = jax.vmap(lambda x: jnp.square(data - x[None]).sum(axis=tuple(range(1, data.ndim))))(x)
  weights = jax.nn.softmax(-distances / (2 * jnp.square(sigma))[:, None], axis=1)
  return jnp.tensordot(weights, data, axes=1, precision=jax.lax.Precision.HIGHEST)
