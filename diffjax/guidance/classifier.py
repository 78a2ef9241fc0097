from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffjax import struct
from diffjax.arrays import expand
from diffjax.checks import check_in
from diffjax.denoised import Denoised, Predictor, predict
from diffjax.guidance.scales import Scale, at_level
from diffjax.typing import Array, Cond, Denoiser


@struct.dataclass
class Classifier(Predictor):
  """Guidance by a classifier of noisy images (Dhariwal & Nichol 2021, algorithm 2).

      eps^ = eps(x_t) - sqrt(1 - bar alpha_t) grad_{x_t} log p(y | x_t)

  Adding scale * grad log p(label | x) to score = (x0 - x) / sigma^2 moves x0 by scale * sigma^2 times that gradient.
  One network call, one gradient of the classifier. (The paper's algorithm 1 differs in the order of the step: it uses
  the next noise level's variance instead of sigma^2.)

  Attributes:
    denoiser: the model, unconditional or not.
    classifier: (x [B, ...], sigma) -> logits [B, K]; x = x0 + sigma * noise, not scaled by alpha.
    scale: 1 is Bayes' rule; [] or [B], or a function of sigma.
    conditional: whether the denoiser receives the condition too.
  """

  denoiser: Denoiser
  classifier: Callable[[Array, Array], Array]
  scale: Scale = 1.0
  conditional: bool = struct.field(pytree_node=False, default=False)

  def __post_init__(self):
    check_in("(-inf, inf)", scale=self.scale)

  def predict(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Denoised:
    """x0 guided toward cond["label"] int [B]; the unguided x0 and the variance are the denoiser's."""
    own = predict(self.denoiser, x, sigma, cond if self.conditional else None, key=key)
    return Denoised(own.x0 + self._shift(x, sigma, cond), own.x0, own.variance)

  def _shift(self, x, sigma, cond):
    def log_prob(x):
      log_probs = jax.nn.log_softmax(self.classifier(x, sigma))
      return jnp.take_along_axis(log_probs, cond["label"][:, None], axis=1).sum()

    return expand(at_level(self.scale, sigma) * jnp.square(sigma), x) * jax.grad(log_prob)(x)
