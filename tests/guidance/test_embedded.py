"""A network that reads the guidance scale is given it, beside whatever else it is given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import guidance


def reading(x, sigma, cond=None, *, key=None):
  return x * cond["guidance"][:, None] + cond["label"][:, None]


def test_the_scale_reaches_the_network():
  x, cond = jnp.ones((3, 2)), {"label": jnp.arange(3.0)}
  guided = guidance.Embedded(reading, 4.0)
  np.testing.assert_array_equal(guided(x, jnp.asarray(1.0), cond), 4.0 + np.arange(3.0)[:, None] + np.zeros(2)[None])
  assert "guidance" not in cond


def test_the_scale_is_traced():
  run = jax.jit(lambda scale: guidance.Embedded(reading, scale)(jnp.ones((1, 1)), 1.0, {"label": jnp.zeros(1)}))
  assert run(2.0) == 2.0 and run(5.0) == 5.0
  with pytest.raises(ValueError, match="scale is nan"):
    guidance.Embedded(reading, float("nan"))
