"""Losses: one weighted squared error, and the weights the literature gives it.

Every loss is weight(sigma) * ||denoiser(x) - x0||^2: a network that predicts the noise, the velocity or anything else
differs from one that predicts x0 by a factor 1 / c_out^2, which `Simple` is. So one weighting means the same
for every prediction. There is no randomness in here: noise and sigma come in.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffjax import posterior, struct
from diffjax.batching import expand, wide
from diffjax.denoisers import NetworkDenoiser, Prediction
from diffjax.schedules import Discrete, Schedule
from diffjax.typing import Array, Cond, Denoiser

Weight = Callable[[Array], Array]
"""sigma [B] -> weight [B] of the squared error of x0."""


def mean_flat(values: Array) -> Array:
  """Mean over all but the batch: [B, ...] -> [B]."""
  return wide(values.reshape(values.shape[0], -1)).mean(axis=1)


def denoising(
  denoiser: Denoiser,
  weight: Weight,
  x0: Array,
  noise: Array,
  sigma: Array,
  cond: Cond = None,
  *,
  key: Array | None = None,
) -> Array:
  """weight(sigma) times the mean squared error of the predicted x0: [B], from x0 and noise [B, ...], sigma [B]."""
  error = denoiser(x0 + expand(sigma, x0) * noise, sigma, cond, key=key) - x0
  return weight(sigma) * mean_flat(jnp.square(wide(error)))


@struct.dataclass
class Simple:
  """Plain squared error of what the network outputs (Ho et al. 2020, eq. 14, for `Eps`)."""

  prediction: Prediction
  schedule: Schedule

  def __call__(self, sigma: Array) -> Array:
    return 1 / jnp.square(self.prediction.skip_out(sigma, self.schedule)[1])


@struct.dataclass
class SNR:
  """Signal-to-noise ratio: the error of the noise, whatever is predicted (Salimans & Ho 2022, section 4)."""

  def __call__(self, sigma: Array) -> Array:
    return 1 / jnp.square(sigma)


@struct.dataclass
class MinSNR:
  """min(SNR, gamma) on x0 (Hang et al. 2023, section 3.4).

  That is min(SNR, gamma) / SNR on the noise and min(SNR, gamma) / (SNR + 1) on v, finite at zero terminal SNR.
  """

  gamma: float = 5.0

  def __call__(self, sigma: Array) -> Array:
    return jnp.minimum(1 / jnp.square(sigma), self.gamma)


@struct.dataclass
class EDM:
  """Unit weight on the output of an EDM-preconditioned network at every sigma (Karras et al. 2022, table 1)."""

  sigma_data: float = 0.5

  def __call__(self, sigma: Array) -> Array:
    return (jnp.square(sigma) + self.sigma_data**2) / jnp.square(sigma * self.sigma_data)


@struct.dataclass
class P2:
  """SNR / (k + SNR)^gamma: less weight on the cleanest levels (Choi et al. 2022, eq. 8)."""

  k: float = 1.0
  gamma: float = 1.0

  def __call__(self, sigma: Array) -> Array:
    snr = 1 / jnp.square(sigma)
    return snr / (self.k + snr) ** self.gamma


@struct.dataclass
class Sigmoid:
  """SNR * sigmoid(bias - log SNR): levels off at the clean end (Hoogeboom et al. 2024, eq. 9)."""

  bias: float = -1.0

  def __call__(self, sigma: Array) -> Array:
    log_snr = -2 * jnp.log(sigma)
    return jnp.exp(self.bias) * jax.nn.sigmoid(log_snr - self.bias)


def variational_bound(
  x0: Array,
  x: Array,
  x0_predicted: Array,
  fraction: Array,
  sigma: Array,
  sigma_next: Array,
  schedule: Discrete,
) -> Array:
  """One term of the variational bound in bits per dimension, [B] (Nichol & Dhariwal 2021, eq. 4-6).

  Args:
    x0: 8-bit pixels in [-1, 1], [B, ...].
    x: x0 + sigma * noise.
    x0_predicted: the denoiser's x0 at (x, sigma).
    fraction: the variance's place between posterior (0) and larger (1): a number or [B, ...].
    sigma: [B], the step's noise level.
    sigma_next: [B], the level below; zero selects the likelihood of the pixels themselves. The posterior's variance is
      zero there, and that of the schedule's second step takes its place, as in the paper.
    schedule: a discrete one, of at least two steps.

  Raises:
    ValueError: if the schedule is not discrete or has one step.
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
  """L_simple + lambda * L_vlb, [B]: the bound teaches the variance alone (Nichol & Dhariwal 2021, eq. 16).

  `bound_weight` multiplies one step's bound; the paper's lambda, 0.001, multiplies the sum over T steps, so it is
  0.001 * T: 1 for T = 1000. The schedule's `sigma_below` gives sigma_next.

  Raises:
    ValueError: if the network has no channels for the variance.
  """
  x = x0 + expand(sigma, x0) * noise
  x0_predicted, fraction = denoiser.x0_and_variance(x, sigma, cond, key=key)
  if fraction is None:
    raise ValueError(f"the network outputs {x0.shape[-1]} channels; a learned variance needs twice as many.")
  frozen = jax.lax.stop_gradient(x0_predicted)
  bound = variational_bound(x0, x, frozen, fraction, sigma, sigma_next, denoiser.schedule)
  return weight(sigma) * mean_flat(jnp.square(wide(x0_predicted - x0))) + bound_weight * bound
