"""Linear inverse problems on Gaussian data, whose posterior is known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian, gaussian_marginal

from diffjax import guidance, sample, samplers, schedules
from diffjax.guidance import inverse

pytestmark = pytest.mark.usefixtures("x64")

SHAPE = (1, 4, 4, 3)
KERNEL = np.array([[0.0, 0.1, 0.0], [0.15, 0.5, 0.1], [0.0, 0.05, 0.1]])
STD = 0.7


def operators():
  mask = np.random.default_rng(0).integers(0, 2, (1, 4, 4, 1)).astype(float)
  return {
    "inpainting": inverse.Inpainting(jnp.asarray(mask)),
    "super-resolution": inverse.SuperResolution(2),
    "deblurring": inverse.Deblurring(jnp.asarray(KERNEL)),
    "box blur": inverse.Deblurring(jnp.full((1, 3), 1 / 3)),
    "blur with a null space": inverse.Deblurring(jnp.array([[0.25, 0.5, 0.25]])),
    "colourisation": inverse.Colourisation(3),
  }


def matrix(function, shape):
  jacobian = jax.jacobian(lambda a: jnp.ravel(function(a.reshape(shape))))(jnp.zeros(np.prod(shape)))
  return np.asarray(jacobian)


def random(shape, seed=1):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


every = pytest.mark.parametrize("name", operators())


@every
def test_adjoint_solve_and_pseudo_inverse_are_those_of_the_matrix(name):
  operator = operators()[name]
  shape = operator.apply(jnp.zeros(SHAPE)).shape
  A = matrix(operator.apply, SHAPE)
  np.testing.assert_allclose(matrix(operator.adjoint, shape), A.T, atol=1e-12)
  np.testing.assert_allclose(matrix(operator.pseudo_inverse, shape), np.linalg.pinv(A, rcond=1e-5), atol=1e-9)
  expected = np.linalg.inv(0.7 * A @ A.T + 0.2 * np.eye(len(A)))
  np.testing.assert_allclose(matrix(lambda y: operator.solve(y, 0.7, 0.2), shape), expected, atol=1e-9)


def test_what_the_operators_do():
  x = random((2, 4, 4, 3))
  np.testing.assert_allclose(inverse.SuperResolution(2).apply(x)[1, 0, 1, 2], x[1, :2, 2:, 2].mean())
  np.testing.assert_allclose(inverse.Colourisation(3).apply(x)[..., 0], x.mean(-1))
  blurred = inverse.Deblurring(jnp.asarray(KERNEL)).apply(x)
  by_hand = sum(KERNEL[i, j] * x[0, (2 - (i - 1)) % 4, (3 - (j - 1)) % 4] for i in range(3) for j in range(3))
  np.testing.assert_allclose(blurred[0, 2, 3], by_hand)


def posterior_denoiser(operator, y, noise_std, x, sigma):
  """E[x0 | x, y] for N(0.3, STD^2) data, by dense matrices."""
  A = matrix(operator.apply, SHAPE)
  precision = (1 / STD**2 + 1 / sigma**2) * np.eye(A.shape[1]) + A.T @ A / noise_std**2
  right = 0.3 / STD**2 + np.ravel(x) / sigma**2 + A.T @ np.ravel(y) / noise_std**2
  return np.linalg.solve(precision, right).reshape(SHAPE)


@every
@pytest.mark.parametrize("sigma", [0.05, 1.0, 40.0])
def test_pigdm_is_the_exact_posterior(name, sigma):
  operator, x = operators()[name], sigma * random(SHAPE)
  y = operator.apply(random(SHAPE, 2)) + 0.1 * random(operator.apply(x).shape, 3)
  guided = guidance.pigdm(Gaussian(0.3, STD), operator, y, 0.1, STD)
  np.testing.assert_allclose(
    guided(x, jnp.asarray(sigma)), posterior_denoiser(operator, y, 0.1, x, sigma), rtol=1e-6, atol=1e-8
  )


@every
def test_pigdm_without_noise_explains_y(name):
  operator = operators()[name]
  y = operator.apply(random(SHAPE, 2))
  x0 = guidance.pigdm(Gaussian(0.3, STD), operator, y, 0.0, STD)(random(SHAPE), jnp.asarray(1.0))
  np.testing.assert_allclose(operator.apply(x0), y, atol=1e-8)


@pytest.mark.slow
def test_levels_of_each_sample():
  operator, x, sigma = inverse.SuperResolution(2), random((2, 4, 4, 3)), jnp.array([0.3, 2.0])
  guided = guidance.pigdm(Gaussian(0.3, STD), operator, random((1, 2, 2, 3), 2), 0.1, STD)
  for i in range(2):
    np.testing.assert_allclose(guided(x, sigma)[i], guided(x[i : i + 1], sigma[i])[0], rtol=1e-10)


def sampled(make_guided, num_steps, noise_std=0.5, y=1.2):
  """Mean and variance that are drawn at the lowest level, over those of the exact posterior of one noisy pixel."""
  sigmas = np.geomspace(50.0, 0.05, num_steps)
  guided = make_guided(Gaussian(0.3, STD), inverse.Inpainting(jnp.ones((1, 1))), jnp.full((1, 1), y), noise_std)
  exact_variance = 1 / (1 / STD**2 + 1 / noise_std**2)
  exact_mean = (0.3 / STD**2 + y / noise_std**2) * exact_variance

  class Posterior:
    mean = exact_mean  # where `gaussian_marginal` starts
    __call__ = staticmethod(jax.jit(lambda x, sigma, key: guided(x, sigma)))

  start = exact_variance + sigmas[0] ** 2
  mean, variance = gaussian_marginal(lambda noise: samplers.Heun(), Posterior(), sigmas, start)
  return mean - exact_mean, variance / (exact_variance + sigmas[-1] ** 2) - 1


@pytest.mark.slow
def test_samples_of_pigdm_have_no_bias_and_those_of_dps_do():
  """DPS takes p(y | x) for p(y | x0 = its mean): the measurement counts too much, and the samples vary too little."""
  pigdm = lambda denoiser, operator, y, noise_std: guidance.pigdm(denoiser, operator, y, noise_std, STD)
  dps = lambda denoiser, operator, y, noise_std: guidance.EnergyGuidance(
    denoiser, inverse.LeastSquares(operator, y, noise_std)
  )
  exact, biased = np.abs(sampled(pigdm, 100)), sampled(dps, 100)
  assert exact[0] < 1e-10 and exact[1] < 2e-3, exact
  assert abs(sampled(pigdm, 200)[1]) < exact[1] / 3.5  # what is left is the steps', of second order
  assert biased[0] > 0.3 and biased[1] < -0.5, biased
  np.testing.assert_allclose(sampled(dps, 200), biased, rtol=3e-2)  # the bias is not the steps'


def test_samples_of_dps_miss_the_posterior_of_a_coarse_pixel():
  """By its own constructor and sampler: the mean of four pixels is drawn at y itself, hardly varying."""
  noise_std, y, sigmas = 0.5, 1.2, jnp.geomspace(50.0, 0.01, 200)
  operator, keys = inverse.SuperResolution(2), jax.random.split(jax.random.key(0), 500)
  variance = 1 / (4 / STD**2 + 1 / noise_std**2)
  exact = (0.3 * 4 / STD**2 + y / noise_std**2) * variance

  def drawn(guided, sampler):
    x = sigmas[0] * jax.random.normal(jax.random.key(1), (500, 2, 2, 1))
    levels = jnp.append(sigmas, 0)
    x0 = jax.jit(sample)(guided, sampler, x, levels, key=keys)
    return operator.apply(x0).ravel()

  arguments = Gaussian(0.3, STD), operator, jnp.full((1, 1, 1, 1), y)
  by_dps = drawn(guidance.dps(*arguments), samplers.MeanGuided(samplers.DDPM(), schedules.variance_preserving))
  by_pigdm = drawn(guidance.pigdm(*arguments, noise_std, STD), samplers.Heun())
  assert abs(by_pigdm.mean() - exact) < 4 * (variance / 500) ** 0.5 + 0.005
  np.testing.assert_allclose(by_pigdm.var(), variance, rtol=0.25)
  assert by_dps.mean() - exact > 0.3 and by_dps.var() < variance / 2


def test_residual_norm_of_nothing_has_no_gradient():
  energy = inverse.ResidualNorm(inverse.SuperResolution(2), jnp.zeros((1, 2, 2, 3)))
  gradient = jax.grad(lambda x0: energy(x0).sum())
  assert not gradient(jnp.zeros(SHAPE)).any()
  np.testing.assert_allclose(jnp.linalg.norm(gradient(random(SHAPE))) ** 2, 1 / 4, rtol=1e-10)
