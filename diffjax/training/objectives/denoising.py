"""What a diffusion model is trained on: pictures in, one loss per picture out."""

from typing import Any

import jax
import jax.numpy as jnp

from diffjax import denoisers, losses, randomness, struct
from diffjax.codecs import to_float
from diffjax.schedules import Schedule
from diffjax.training import augmentation
from diffjax.typing import Array, PyTree


@struct.dataclass
class Objective:
  """Denoising loss at a random noise level: (params, batch, key) -> [b].

  Every random number of an example comes from `key` and its "index" in the global batch, so the loss does not depend on
  how the batch is split among devices or accumulated.

  Attributes:
    module: a Linen network, `apply(params, x, c_noise, cond, key=keys)`.
    prediction, schedule, time_scale: as in `denoisers.NetworkDenoiser`.
    noise_levels: uniform numbers [b] -> sigma [b].
    weight: sigma -> weight of the squared error of x0.
    batch_size: examples in a global batch.
    stratified: spread the noise levels of a global batch evenly.
    num_classes: 0 for a model without labels.
    label_dropout: the share of labels replaced by the null label, num_classes.
    flip: mirror half of the pictures in training.
    augment: the probability of each non-leaking augmentation, of which the network is told; 0: none.
    train: whether dropout and augmentation act.
    hybrid: add the variational bound, for a discrete schedule and a network with learned variance.
    bound_weight: of that bound.
  """

  prediction: denoisers.Prediction
  schedule: Schedule
  noise_levels: Any
  weight: Any
  time_scale: float = 1.0
  label_dropout: float = 0.0
  bound_weight: float = 0.0
  module: Any = struct.field(pytree_node=False, default=None)
  batch_size: int = struct.field(pytree_node=False, default=1)
  stratified: bool = struct.field(pytree_node=False, default=False)
  num_classes: int = struct.field(pytree_node=False, default=0)
  flip: bool = struct.field(pytree_node=False, default=False)
  augment: float = struct.field(pytree_node=False, default=0.0)
  train: bool = struct.field(pytree_node=False, default=True)
  hybrid: bool = struct.field(pytree_node=False, default=False)

  def __call__(self, params: PyTree, batch: PyTree, key: Array, *, axis_name: str | None = None) -> Array:
    del axis_name  # each example's loss is its own affair
    keys = randomness.fold_in_each(key, batch["index"])
    key_noise, key_level, key_flip, key_label, key_network = randomness.split(keys, 5)
    x0 = to_float(batch["image"])
    x0 = augmentation.flip(key_flip, x0) if self.flip and self.train else x0
    cond = self._cond(batch, key_label)
    if self.augment and self.train:
      x0, label = augmentation.non_leaking(randomness.fold_in(key_flip, 1), x0, self.augment)
      cond = (cond or {}) | {"augment": label}
    sigma = self.noise_levels(self._uniform(key, key_level, batch["index"]))
    noise = randomness.normal(key_noise, x0.shape)
    network = denoisers.BoundNetwork(params, self.module)
    denoiser = denoisers.NetworkDenoiser(network, self.prediction, self.schedule, self.time_scale, train=self.train)
    if not self.hybrid:
      return losses.denoising(denoiser, self.weight, x0, noise, sigma, cond, key=key_network)
    sigma_next = self.schedule.sigma_below(sigma)
    return losses.hybrid(
      denoiser, self.weight, x0, noise, sigma, sigma_next, cond, bound_weight=self.bound_weight, key=key_network
    )

  def _uniform(self, key, keys, index):
    if not self.stratified:
      return randomness.uniform(keys)
    return randomness.stratified(jax.random.fold_in(key, self.batch_size), index, self.batch_size)

  def _cond(self, batch, keys):
    if not self.num_classes:
      return None
    dropped = randomness.uniform(keys) < self.label_dropout
    return {"label": jnp.where(dropped, self.num_classes, batch["label"])}
