"""The variational bound of a discrete schedule, and the hybrid loss that uses it to learn the variance."""

import math

import jax
import jax.numpy as jnp

from diffjax import posterior
from diffjax.arrays import expand, upcast
from diffjax.denoised import predict
from diffjax.denoisers import NetworkDenoiser
from diffjax.losses.squared_error import mean_flat
from diffjax.losses.weights import Weight
from diffjax.schedules import Schedule
from diffjax.typing import Array, Cond


def variational_bound(
  x0: Array,
  x: Array,
  x0_predicted: Array,
  fraction: Array | float,
  sigma: Array,
  sigma_next: Array,
  schedule: Schedule,
) -> Array:
  """One term of the variational bound in bits per dimension, [B] (Nichol & Dhariwal 2021, eq. 4-6).

  Args:
    x0: 8-bit pixels in [-1, 1], [B, ...].
    x: x0 + sigma * noise.
    x0_predicted: the denoiser's x0 at (x, sigma).
    fraction: the variance, from the posterior's (0) to the larger one (1): a number or [B, ...].
    sigma: [B], the step's noise level.
    sigma_next: [B], the level below; zero selects the likelihood of the pixels. The posterior's variance is zero there
      and is replaced by that of the schedule's second step, as in the paper.
    schedule: discrete, of at least two steps.

  Raises:
    ValueError: if the schedule is not discrete or has only one step.
  """
  if (schedule.num_steps or 0) < 2:
    raise ValueError("the variational bound needs a discrete schedule of two steps or more; see schedules.discretize.")
  sigma, sigma_next = expand(sigma, x), expand(sigma_next, x)
  last = sigma_next == 0
  # the step to the data has no posterior: any level keeps that unused branch, and its gradient, finite
  safe_next = jnp.where(last, sigma / 2, sigma_next)
  mean_q = posterior.mean(x0, x, sigma, safe_next)
  mean_p = posterior.mean(x0_predicted, x, sigma, safe_next)
  log_variance_p = posterior.interpolated_log_variance(fraction, sigma, safe_next, schedule.scaling)
  kl = posterior.normal_kl(mean_q, posterior.log_variance(sigma, safe_next), mean_p, log_variance_p)
  first, second = schedule.sigma(jnp.zeros((), sigma.dtype)), schedule.sigma(jnp.ones((), sigma.dtype))
  low = posterior.log_variance(second, first) + 2 * jnp.log(schedule.scaling(first))
  high = posterior.larger_log_variance(first, jnp.zeros_like(first), schedule.scaling)
  decoder_log_variance = low + fraction * (high - low)
  decoder = -posterior.discretized_log_likelihood(x0, x0_predicted, decoder_log_variance)
  return mean_flat(jnp.where(last, decoder, kl)) / math.log(2)


def hybrid(
  denoiser: NetworkDenoiser,
  weight: Weight,
  x0: Array,
  noise: Array,
  sigma: Array,
  sigma_next: Array,
  cond: Cond = None,
  *,
  bound_weight: float = 1.0,
  key: Array | None = None,
) -> Array:
  """L_simple + lambda * L_vlb, [B]: the bound trains only the variance (Nichol & Dhariwal 2021, eq. 16).

  `bound_weight` multiplies one step's bound; the paper's lambda, 0.001, multiplies the sum over T steps, so it
  corresponds to bound_weight = 0.001 * T: 1 for T = 1000. Get sigma_next from the schedule's `sigma_below`.

  Raises:
    ValueError: if the network has no channels for the variance.
  """
  x = x0 + expand(sigma, x0) * noise
  predicted = predict(denoiser, x, sigma, cond, key=key)
  x0_predicted, fraction = predicted.x0, predicted.variance
  if fraction is None:
    raise ValueError(
      f"the network outputs {x0.shape[-1]} channels, but a learned variance needs twice as many; double them."
    )
  frozen = jax.lax.stop_gradient(x0_predicted)
  bound = variational_bound(x0, x, frozen, fraction, sigma, sigma_next, denoiser.schedule)
  return weight(sigma) * mean_flat(jnp.square(upcast(x0_predicted - x0))) + bound_weight * bound
