"""Hinge losses of a discriminator and its generator (Lim & Ye 2017, Geometric GAN)."""

from jax.nn import relu

from diffjax.losses.squared_error import mean_flat
from diffjax.typing import Array


def hinge(real: Array, made: Array) -> Array:
  """The discriminator's loss [b] for logits [b, ...] of real and of made images.

  Zero once real logits are above 1 and made ones below -1.
  """
  return mean_flat(relu(1 - real) + relu(1 + made))


def generator(made: Array) -> Array:
  """The generator's loss [b] beside `hinge`: minus the mean logit of its images."""
  return -mean_flat(made)
