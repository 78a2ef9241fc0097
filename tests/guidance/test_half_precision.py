"""Predictions in 16 bits: norms, sums and means of squares over a picture are taken in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import arrays, guidance, losses
from diffjax.guidance.energies import penalties
from diffjax.samplers.adaptive import solve

SIZE = 66_000  # more than float16's largest number, 65,504
LABEL, NULL = {"label": jnp.array([1.0])}, {"label": 0.0}
SIGMA = jnp.asarray(1.0)
KEY = jax.random.key(0)
X = jnp.ones((1, 2, SIZE // 4, 2))


def by_label(x, sigma, cond=None, *, key=None):
  """The picture that is all 1, and without a condition all 0."""
  return (arrays.expand(cond["label"], x) * jnp.ones_like(x)).astype(jnp.float16)


@pytest.mark.parametrize(("radius", "expected"), [(float("inf"), 3.0), (100.0, 1 + 2 * 100 / SIZE**0.5)])
def test_projected_guidance(radius, expected):
  guided = guidance.AdaptiveProjected(by_label, NULL, 3.0, radius, eta=1.0)
  drawn = guided(X, SIGMA, LABEL)
  assert drawn.dtype == jnp.float16
  np.testing.assert_allclose(drawn, np.full(X.shape, expected), rtol=5e-4)


def test_projected_guidance_of_equal_predictions_is_finite():
  guided = guidance.AdaptiveProjected(lambda x, sigma, cond, key: (0 * x).astype(jnp.float16), NULL, 3.0, 1.0)
  assert not guided(X, SIGMA, LABEL).any()


def test_the_rescaling_of_a_constant_picture_leaves_it():
  guided = guidance.ClassifierFree(by_label, NULL, 3.0, rescale=1.0)(X, SIGMA, LABEL)
  assert guided.dtype == jnp.float16
  np.testing.assert_allclose(guided, np.full(X.shape, 3.0), rtol=5e-4)


@pytest.mark.parametrize("position", ["x0", "score"])
def test_the_size_of_a_gradient(position):
  """A gradient of 300, whose square is no number of float16, and one of 1e-5, whose square is 0 there."""
  for slope in (300.0, 1e-5):
    energy = lambda x0, key, slope=slope: (slope * x0.astype(jnp.float32)).sum((1, 2, 3))
    half = lambda x, sigma, cond, key: x.astype(jnp.float16)
    guided = guidance.EnergyGuidance(half, energy, position=position, normalize=True)
    denoised = guided.predict(X.astype(jnp.float16), SIGMA)
    shift = denoised.x0 - denoised.unguided
    np.testing.assert_allclose(shift, np.full(X.shape, -1.0), rtol=1e-2)


def test_energies():
  x0 = jnp.full((1, 100, 330, 2), 401.0, jnp.float16)
  whole = guidance.inverse.Inpainting(jnp.ones((1, 100, 330, 1), jnp.float16))
  y, count = jnp.zeros_like(x0), x0.size
  np.testing.assert_allclose(guidance.inverse.LeastSquares(whole, y)(x0), [count * 401**2 / 2], rtol=1e-5)
  np.testing.assert_allclose(guidance.inverse.ResidualNorm(whole, y)(x0), [count**0.5 * 401], rtol=1e-5)
  of_level = guidance.inverse.PseudoInverse(whole, y, noise_std=1.0).at(jnp.asarray(1e6))
  np.testing.assert_allclose(of_level(x0), [count * 401**2 / 4], rtol=1e-3)
  np.testing.assert_allclose(penalties.out_of_range(x0), [400**2], rtol=1e-5)
  step = jnp.where(jnp.arange(330)[None, None, :, None] % 2 == 0, 300, 0) * jnp.ones((1, 100, 330, 2), jnp.float16)
  np.testing.assert_allclose(penalties.total_variation(step), [300**2 * 329 / 330], rtol=1e-4)


def test_the_squared_error():
  half = lambda x, sigma, cond, key: (0 * x).astype(jnp.float16)
  x0 = jnp.full((2, 3, 3, 1), 300.0, jnp.float16)
  loss = losses.denoising(half, jnp.ones_like, x0, jnp.zeros_like(x0), jnp.ones(2))
  np.testing.assert_allclose(loss, [300**2] * 2)


def test_the_adaptive_sampler_starts_from_16_bits():
  prior = lambda x, sigma, cond=None, *, key=None: x / (1 + arrays.expand(sigma, x) ** 2)
  x = jnp.linspace(-80, 80, 6, dtype=jnp.float16)[:, None]
  drawn, _ = solve(prior, x, 80.0, 0.01, key=KEY)
  assert drawn.dtype == jnp.float32
  np.testing.assert_allclose(drawn, x.astype(jnp.float32) / (1 + 80.0**2) ** 0.5, atol=1e-3)
