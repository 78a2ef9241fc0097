"""Hinge losses: values by hand, and the discriminator that minimises them."""

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.losses import adversarial


def test_values_of_each_image():
  real, made = jnp.array([[0.5, 2.0], [-1.0, 1.0]]), jnp.array([[-3.0, 0.0], [1.0, -1.0]])
  np.testing.assert_allclose(adversarial.hinge(real, made), [(0.5 + 1) / 2, (2 + 2) / 2])
  np.testing.assert_allclose(adversarial.generator(made), [1.5, 0.0])


def test_the_best_logit_is_the_sign_of_the_difference_of_densities():
  # two places; real images are at the first with probability 0.7, made ones with 0.4
  loss = lambda logits: sum(
    p * adversarial.hinge(logits[i, None, None], logits[j, None, None])[0]
    for p, i, j in ((0.28, 0, 0), (0.42, 0, 1), (0.12, 1, 0), (0.18, 1, 1))
  )
  logits = jnp.zeros(2)
  for _ in range(400):
    logits -= 0.1 * jax.grad(loss)(logits)
  np.testing.assert_allclose(logits, [1, -1], atol=0.1)
