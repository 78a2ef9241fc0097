"""Weights from the literature for the squared error of x0."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffjax import struct
from diffjax.denoisers import Prediction
from diffjax.schedules import Schedule
from diffjax.typing import Array

Weight = Callable[[Array], Array]
"""sigma [B] -> weight [B] of the squared error of x0."""


@struct.dataclass
class Simple:
  """Plain squared error of the network's output (Ho et al. 2020, eq. 14, for `Eps`)."""

  prediction: Prediction
  schedule: Schedule

  def __call__(self, sigma: Array) -> Array:
    return 1 / jnp.square(self.prediction.skip_out(sigma, self.schedule)[1])


@struct.dataclass
class SNR:
  """Signal-to-noise ratio: the squared error of the noise, whatever is predicted (Salimans & Ho 2022, section 4)."""

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
class Preconditioned:
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
