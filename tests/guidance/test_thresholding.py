import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import guidance

identity = lambda x, sigma, cond=None, *, key=None: x


def pictures():
  x = np.random.default_rng(0).normal(size=(3, 8, 8, 2)).astype(np.float32)
  return jnp.asarray(x * np.array([0.1, 1.0, 5.0], np.float32)[:, None, None, None])


@pytest.mark.parametrize("bound", [1.0, 2.0])
def test_static(bound):
  clipped = guidance.StaticThreshold(identity, bound)(pictures(), 1.0)
  np.testing.assert_array_equal(clipped, np.clip(pictures(), -bound, bound))


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.995])
def test_dynamic_is_imagens(quantile):
  """Saharia et al. 2022: s = percentile of |x0|, s = max(s, 1), clip to [-s, s], divide by s; per picture."""
  thresholded = guidance.DynamicThreshold(identity, quantile)(pictures(), 1.0)
  for x0, ours in zip(np.asarray(pictures()), thresholded, strict=True):
    s = max(np.percentile(np.abs(x0), 100 * quantile), 1)
    np.testing.assert_allclose(ours, np.clip(x0, -s, s) / s, rtol=1e-5, atol=1e-7)


def test_dynamic_keeps_pictures_within_range():
  quiet = pictures()[:1]
  np.testing.assert_array_equal(guidance.DynamicThreshold(identity)(quiet, 1.0), quiet)


def test_batch_mates_do_not_matter():
  threshold = guidance.DynamicThreshold(identity, 0.9, 1.5)
  np.testing.assert_allclose(threshold(pictures(), 1.0)[1:2], threshold(pictures()[1:2], 1.0), rtol=1e-6)
  assert np.abs(threshold(pictures(), 1.0)).max() <= 1.5 * (1 + 1e-6)


def test_they_nest_and_pass_cond_and_keys_on():
  seen = []
  denoiser = lambda x, sigma, cond=None, *, key=None: (seen.append((cond, key)), x)[1]
  keys = jax.random.split(jax.random.key(0), 3)
  guidance.StaticThreshold(guidance.DynamicThreshold(denoiser))(pictures(), 1.0, {"label": 1}, key=keys)
  assert seen[0][0] == {"label": 1} and seen[0][1] is keys


@pytest.mark.parametrize("threshold", [guidance.StaticThreshold(identity), guidance.DynamicThreshold(identity)])
def test_gradients_are_finite(threshold):
  gradient = jax.grad(lambda x: jnp.square(threshold(x, 1.0)).sum())
  assert np.all(np.isfinite(gradient(pictures()))) and np.all(np.isfinite(gradient(jnp.zeros((3, 8, 8, 2)))))
