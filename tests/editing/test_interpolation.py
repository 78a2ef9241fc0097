import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import editing


def test_ends_and_middle():
  a, b = jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 3.0]])
  for fraction, expected in ((0.0, a), (1.0, b), (0.5, (a + b) / 2**0.5), (1 / 3, jnp.array([[2.598076, 1.5]]))):
    np.testing.assert_allclose(editing.slerp(a, b, fraction), expected, atol=1e-6)


def test_noise_stays_noise():
  a, b = jax.random.normal(jax.random.key(0), (2, 4, 40, 40, 3))
  for fraction in (0.2, 0.5):
    np.testing.assert_allclose(editing.slerp(a, b, fraction).std((1, 2, 3)), 1, atol=0.03)
    assert ((1 - fraction) * a + fraction * b).std() < 0.85


def test_each_sample_by_itself():
  a, b = jax.random.normal(jax.random.key(0), (2, 3, 5))
  fractions = jnp.array([0.1, 0.6, 1.0])
  whole = editing.slerp(a, b, fractions)
  for i in range(3):
    np.testing.assert_allclose(whole[i : i + 1], editing.slerp(a[i : i + 1], b[i : i + 1], fractions[i]), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_large_pictures_in_16_bits(dtype):
  a, b = jax.random.normal(jax.random.key(0), (2, 1, 256, 256, 3))
  between = editing.slerp(a.astype(dtype), b.astype(dtype), 0.3)
  assert between.dtype == dtype
  np.testing.assert_allclose(between.astype(jnp.float32), editing.slerp(a, b, 0.3), atol=0.05)


@pytest.mark.parametrize("factor", [1.0, 1.0 + 1e-7, 2.0, -1.0, 0.0])
def test_ends_of_arccos_are_guarded(factor):
  a = jax.random.normal(jax.random.key(0), (2, 6))
  f = lambda a, b, fraction: editing.slerp(a, b, fraction).sum()
  assert np.all(np.isfinite(editing.slerp(a, factor * a, 0.3)))
  for gradient in jax.grad(f, (0, 1, 2))(a, factor * a, 0.3):
    assert np.all(np.isfinite(gradient))
  if factor > 0:
    np.testing.assert_allclose(editing.slerp(a, factor * a, 0.3), a * (0.7 + 0.3 * factor), rtol=1e-4)
