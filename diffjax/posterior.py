"""The classic DDPM reverse step: the posterior of a less noisy sample, and the likelihood bound it gives.

In x = x0 + sigma * noise the posterior of x at sigma_next, given x at sigma and x0, is a normal distribution with

    mean = x0 + (sigma_next / sigma)^2 * (x - x0),   variance = sigma_next^2 * (1 - (sigma_next / sigma)^2)

which is Ho et al. 2020, eq. 6-7, divided by alpha: one formula for every schedule.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffjax.arrays import expand, safe_sqrt
from diffjax.schedules import variance_preserving
from diffjax.typing import Array

Scaling = Callable[[Array], Array]
"""A schedule's alpha as a function of sigma."""


def mean(x0: Array, x: Array, sigma: Array, sigma_next: Array) -> Array:
  """Mean of q(x_next | x, x0), for x0 and x [B, ...] and sigmas [] or [B], sigma > sigma_next."""
  return x0 + jnp.square(expand(sigma_next / sigma, x)) * (x - x0)


def log_variance(sigma: Array, sigma_next: Array) -> Array:
  """Log variance of q(x_next | x, x0): Ho et al.'s "beta tilde"; -inf at sigma_next = 0."""
  return 2 * jnp.log(sigma_next) + jnp.log1p(-jnp.square(sigma_next / sigma))


def ancestral(sigma: Array, sigma_next: Array, eta: Array | float) -> tuple[Array, Array]:
  """(sigma_down, sigma_up): an ODE solver steps to sigma_down, then fresh noise of sigma_up brings x to sigma_next.

  sigma_down^2 + sigma_up^2 = sigma_next^2, for levels of one shape and eta in [0, 1]; at eta = 1 sigma_up^2 is the
  posterior's variance, at 0 there is no noise (Song et al. 2020, Denoising Diffusion Implicit Models, eq. 16). A step
  up, sigma_next > sigma, has no posterior: it is the ODE's step at eta = 0 and NaN for any other eta.
  """
  ratio = sigma_next / sigma
  sigma_up = sigma_next * eta * safe_sqrt(jnp.where((eta == 0) & (ratio > 1), 0, 1 - ratio**2))
  # sqrt(sigma_next^2 - sigma_up^2), rearranged because that form cancels when eta = 1 and the step is long
  sigma_down = sigma_next * safe_sqrt((1 - eta) * (1 + eta) + (eta * ratio) ** 2)
  return sigma_down, sigma_up


def larger_log_variance(sigma: Array, sigma_next: Array, scaling: Scaling = variance_preserving) -> Array:
  """Log of the variance that the forward step adds: Ho et al.'s "beta", the other extreme of section 3.2."""
  ratio = scaling(sigma) / scaling(sigma_next)
  return 2 * jnp.log(ratio) + 2 * jnp.log(sigma) + jnp.log1p(-jnp.square(sigma_next / sigma))


def interpolated_log_variance(
  fraction: Array | float, sigma: Array, sigma_next: Array, scaling: Scaling = variance_preserving
) -> Array:
  """Log variance between the posterior's (fraction 0) and the larger one (1) (Nichol & Dhariwal 2021, eq. 15)."""
  return fraction * larger_log_variance(sigma, sigma_next, scaling) + (1 - fraction) * log_variance(sigma, sigma_next)


def normal_kl(mean_q: Array, log_variance_q: Array, mean_p: Array | float, log_variance_p: Array) -> Array:
  """Elementwise KL(q || p) in nats of two normal distributions."""
  difference = log_variance_q - log_variance_p
  return (jnp.expm1(difference) - difference + jnp.square(mean_q - mean_p) * jnp.exp(-log_variance_p)) / 2


def discretized_log_likelihood(x0: Array, mean: Array, log_variance: Array) -> Array:
  """Elementwise log probability in nats of 8-bit pixels scaled to [-1, 1] (Ho et al. 2020, eq. 13).

  Uses the exact normal distribution function; the code of Ho et al. and improved-diffusion approximates it by a tanh.
  """
  half_bin, inverse_std = 1 / 255, jnp.exp(-log_variance / 2)
  upper = jnp.where(x0 > 0.999, jnp.inf, (x0 - mean + half_bin) * inverse_std)
  lower = jnp.where(x0 < -0.999, -jnp.inf, (x0 - mean - half_bin) * inverse_std)
  # in the upper tail both distribution functions round to 1; mirrored, they do not
  mirrored = lower > 0
  upper, lower = jnp.where(mirrored, -lower, upper), jnp.where(mirrored, -upper, lower)
  return jnp.log(jnp.maximum(jax.scipy.stats.norm.cdf(upper) - jax.scipy.stats.norm.cdf(lower), 1e-12))
