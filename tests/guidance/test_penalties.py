"""Penalties by hand."""

import jax.numpy as jnp
import numpy as np

from diffjax.guidance.energies import penalties


def test_by_hand():
  x0 = jnp.array([[0.0, 1.5], [-2.0, 0.0]])[None, :, :, None]
  np.testing.assert_allclose(penalties.out_of_range(x0), [(0.25 + 1) / 4])
  np.testing.assert_allclose(penalties.saturation(x0), [(0.5 + 1) / 4])
  np.testing.assert_allclose(penalties.total_variation(x0), [(4 + 2.25 + 2.25 + 4) / 4])


def test_nothing_to_mend_costs_nothing():
  x0 = jnp.full((2, 3, 3, 1), 0.7)
  for penalty in (penalties.out_of_range, penalties.saturation, penalties.total_variation):
    np.testing.assert_array_equal(penalty(x0), [0, 0])
