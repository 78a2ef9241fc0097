"""What a discriminator's logits are worth to it, and to the generator that it judges."""

from jax.nn import relu

from diffjax.losses.squared_error import mean_flat
from diffjax.typing import Array


def hinge(real: Array, made: Array) -> Array:
  """The discriminator's loss [b] for logits [b, ...] of real and of made images (Lim & Ye 2017, eq. 20).

  Zero once real logits are above 1 and made ones below -1.
  """
  return 0.5 * mean_flat(relu(1 - real) + relu(1 + made))


def generator(made: Array) -> Array:
  """The generator's loss [b] beside `hinge`: minus the mean logit of its images (Lim & Ye 2017, eq. 21)."""
  return -mean_flat(made)
