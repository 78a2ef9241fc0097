"""The objective of diffusion models: one denoising loss per picture."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from diffjax import denoisers, losses, randomness, struct
from diffjax.codecs import Latents, Pixels, to_float
from diffjax.conditioning import Text, Unconditional
from diffjax.schedules import Schedule
from diffjax.training import augmentation
from diffjax.typing import Array, Codec, Conditioner, PyTree

TEXT = "text"
"""The key of a text encoder that is trained along, beside the network's own "params"."""


@struct.dataclass
class Frozen:
  """What a text-to-image model stands on; its training changes nothing of it, unless the text encoder is trained along.

  Attributes:
    codec: the autoencoder, or the pixels themselves.
    conditioner: the text encoder.
  """

  codec: Codec
  conditioner: Text

  def completed(self, params: PyTree) -> tuple[PyTree, "Frozen"]:
    """(the network's own parameters, this with the text encoder in `params`, if one is trained along)."""
    if TEXT not in params:
      return params, self
    (tower,) = self.conditioner.towers
    conditioner = dataclasses.replace(self.conditioner, towers=(dataclasses.replace(tower, params=params[TEXT]),))
    own = {name: value for name, value in params.items() if name != TEXT}
    return own, dataclasses.replace(self, conditioner=conditioner)


@struct.dataclass
class DenoisingObjective:
  """Denoising loss at a random noise level: (params, batch, key) -> (losses [b], metrics).

  A batch has "image" [b, H, W, C], uint8 or float in [-1, 1], "index" int32 [b], and what the conditioner reads. Every
  random number of an example comes from `key` and its index in the global batch, so the loss does not depend on how the
  batch is split among devices or accumulated.

  A text-to-image model's `codec` and `conditioner` are those of `frozen`, a `Frozen`; with a key "text", `params` hold
  the parameters of its text encoder too. Its batch may have "moments" [b, h, w, 2 c] instead of "image", the codec's of
  that image computed once (`codecs.Latents.moments`).

  Attributes:
    prediction, schedule, time_scale: as in `denoisers.NetworkDenoiser`.
    noise_levels: uniform numbers [b] -> sigma [b].
    weight: sigma -> weight of the squared error of x0; None: `losses.Simple`.
    codec: from pictures to x0.
    conditioner: from a batch to the network's cond.
    bound_weight: of the variational bound, with `hybrid`.
    module: a Linen network, `apply(params, x, c_noise, cond, key=keys)`.
    batch_size: examples in a global batch, for `stratified`.
    stratified: spread the noise levels of a global batch evenly.
    flip: mirror half of the pictures in training.
    augment: the probability of each non-leaking augmentation, which the network is conditioned on; 0: none.
    train: whether dropout and augmentation are on.
    hybrid: add the variational bound, for a discrete schedule and a network with learned variance.
  """

  prediction: denoisers.Prediction
  schedule: Schedule
  noise_levels: Any
  weight: Any = None
  codec: Codec = Pixels()
  conditioner: Conditioner = Unconditional()
  time_scale: float = 1.0
  bound_weight: float = 0.0
  module: Any = struct.field(pytree_node=False, default=None)
  batch_size: int = struct.field(pytree_node=False, default=1)
  stratified: bool = struct.field(pytree_node=False, default=False)
  flip: bool = struct.field(pytree_node=False, default=False)
  augment: float = struct.field(pytree_node=False, default=0.0)
  train: bool = struct.field(pytree_node=False, default=True)
  hybrid: bool = struct.field(pytree_node=False, default=False)

  def denoiser(self, params: PyTree, *, train: bool = False) -> denoisers.NetworkDenoiser:
    """The network with these parameters, as a denoiser."""
    network = denoisers.BoundNetwork(params, self.module)
    return denoisers.NetworkDenoiser(network, self.prediction, self.schedule, self.time_scale, train=train)

  def __call__(
    self, params: PyTree, batch: PyTree, key: Array, *, frozen: PyTree = None, axis_name: str | None = None
  ) -> tuple[Array, dict[str, Array]]:
    del axis_name  # not used: each example's loss is independent of the others
    codec, conditioner = self.codec, self.conditioner
    if frozen is not None:
      params, frozen = frozen.completed(params)
      codec, conditioner = frozen.codec, frozen.conditioner
    keys = randomness.fold_in_each(key, batch["index"])
    key_noise, key_level, key_flip, key_cond, key_network = randomness.split(keys, 5)
    cond = conditioner.training_cond(batch, key_cond)
    key_encode = randomness.fold_in(key_noise, 1)
    if "moments" in batch:
      assert isinstance(codec, Latents)
      x0 = codec.sample(batch["moments"], key_encode)
    else:
      images, label = self._augmented(batch["image"], key_flip)
      cond = cond if label is None else (cond or {}) | {"augment": label}
      x0 = codec.encode(images, key_encode)
    sigma = self.noise_levels(self._uniform(key, key_level, batch["index"]))
    noise = randomness.normal(key_noise, x0.shape)
    denoiser = self.denoiser(params, train=self.train)
    weight = losses.Simple(self.prediction, self.schedule) if self.weight is None else self.weight
    if not self.hybrid:
      return losses.denoising(denoiser, weight, x0, noise, sigma, cond, key=key_network), {}
    sigma_next, share = self.schedule.sigma_below(sigma), self.bound_weight
    return losses.hybrid(denoiser, weight, x0, noise, sigma, sigma_next, cond, bound_weight=share, key=key_network), {}

  def _augmented(self, images, keys):
    """(images in [-1, 1], the label of their augmentations or None)."""
    images = to_float(images) if images.dtype == jnp.uint8 else images
    if not self.train:
      return images, None
    images = augmentation.flip(keys, images) if self.flip else images
    if not self.augment:
      return images, None
    return augmentation.non_leaking(randomness.fold_in(keys, 1), images, self.augment)

  def _uniform(self, key, keys, index):
    if not self.stratified:
      return randomness.uniform(keys)
    return randomness.stratified(jax.random.fold_in(key, self.batch_size), index, self.batch_size)
