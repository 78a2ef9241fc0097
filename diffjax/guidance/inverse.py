"""Linear inverse problems: images x0 of which y = operator.apply(x0) + noise_std * noise is known."""

import abc
from collections.abc import Callable

import jax.numpy as jnp

from diffjax import struct
from diffjax.arrays import expand, squared_norm, upcast
from diffjax.guidance.energy import Energy, EnergyGuidance
from diffjax.guidance.training_free import posterior_sampling
from diffjax.typing import Array, Denoiser


class Operator(abc.ABC):
  """Abstract: a linear map A from images [B, H, W, C] to measurements [B, ...]."""

  @abc.abstractmethod
  def apply(self, x0: Array) -> Array:
    """A x0."""

  @abc.abstractmethod
  def adjoint(self, y: Array) -> Array:
    """A^T y."""

  @abc.abstractmethod
  def solve(self, y: Array, weight: Array | float, floor: Array | float) -> Array:
    """(weight * A A^T + floor)^-1 y, zero where that matrix is zero; weight and floor broadcast against y."""

  def pseudo_inverse(self, y: Array) -> Array:
    """A^T (A A^T)^-1 y: the smallest image that explains y."""
    return self.adjoint(self.solve(y, 1.0, 0.0))


def _divide(y, by):
  return jnp.where(by > 0, y / jnp.where(by > 0, by, 1), 0)


@struct.dataclass
class Inpainting(Operator):
  """Observes the pixels where mask [1 or B, H, W, 1 or C] is 1; y is zero where mask is 0."""

  mask: Array

  def apply(self, x0: Array) -> Array:
    return self.mask * x0

  def adjoint(self, y: Array) -> Array:
    return self.mask * y

  def solve(self, y: Array, weight: Array | float, floor: Array | float) -> Array:
    return _divide(y, weight * jnp.square(self.mask) + floor)


@struct.dataclass
class SuperResolution(Operator):
  """Observes the mean of each block of factor x factor pixels; H and W must be divisible by factor."""

  factor: int = struct.field(pytree_node=False, default=2)

  def apply(self, x0: Array) -> Array:
    B, H, W, C = x0.shape
    f = self.factor
    return x0.reshape(B, H // f, f, W // f, f, C).mean((2, 4))

  def adjoint(self, y: Array) -> Array:
    return y.repeat(self.factor, 1).repeat(self.factor, 2) / self.factor**2

  def solve(self, y: Array, weight: Array | float, floor: Array | float) -> Array:
    return y / (weight / self.factor**2 + floor)


@struct.dataclass
class Deblurring(Operator):
  """Convolution with a centred kernel [h, w], h and w odd, with periodic boundaries."""

  kernel: Array

  def apply(self, x0: Array) -> Array:
    return self._filter(x0, lambda transfer: transfer)

  def adjoint(self, y: Array) -> Array:
    return self._filter(y, jnp.conj)

  def solve(self, y: Array, weight: Array | float, floor: Array | float) -> Array:
    power = jnp.square(jnp.abs(self._transfer(y)))
    power = jnp.where(power > 1e-6 * power.max(), power, 0)  # frequencies that the kernel removes stay zero
    spectrum = jnp.fft.fft2(y, axes=(1, 2))
    by = jnp.broadcast_to(weight * power + floor, y.shape)
    return jnp.fft.ifft2(_divide(spectrum, by), axes=(1, 2)).real.astype(y.dtype)

  def _filter(self, x, function):
    return jnp.fft.ifft2(function(self._transfer(x)) * jnp.fft.fft2(x, axes=(1, 2)), axes=(1, 2)).real.astype(x.dtype)

  def _transfer(self, x):
    h, w = self.kernel.shape
    padded = jnp.zeros(x.shape[1:3], x.dtype).at[:h, :w].set(self.kernel)
    return jnp.fft.fft2(jnp.roll(padded, (-(h // 2), -(w // 2)), (0, 1)))[None, :, :, None]


@struct.dataclass
class Colourisation(Operator):
  """Observes the mean over channels: y [B, H, W, 1]."""

  channels: int = struct.field(pytree_node=False, default=3)

  def apply(self, x0: Array) -> Array:
    return x0.mean(-1, keepdims=True)

  def adjoint(self, y: Array) -> Array:
    return y.repeat(self.channels, -1) / self.channels

  def solve(self, y: Array, weight: Array | float, floor: Array | float) -> Array:
    return y / (weight / self.channels + floor)


@struct.dataclass
class LeastSquares:
  """The energy |y - A x0|^2 / (2 noise_std^2): minus the log likelihood of the measurement y [1 or B, ...]."""

  operator: Operator
  y: Array
  noise_std: float = 1.0

  def __call__(self, x0: Array, key: Array | None = None) -> Array:
    """The energy, [B]."""
    return _square(self.y - self.operator.apply(x0)) / (2 * self.noise_std**2)


@struct.dataclass
class ResidualNorm:
  """The energy |y - A x0|, whose gradient's norm does not depend on the distance to y."""

  operator: Operator
  y: Array

  def __call__(self, x0: Array, key: Array | None = None) -> Array:
    """The energy, [B]; its gradient at zero is zero."""
    return jnp.sqrt(jnp.maximum(_square(self.y - self.operator.apply(x0)), 1e-24))


@struct.dataclass
class PseudoInverse:
  """Negative log likelihood of y if x0 scatters around its prediction as in the posterior of N(0, data_std^2) data.

  The energy (y - A x0)^T (r^2 A A^T + noise_std^2)^-1 (y - A x0) / 2 with 1 / r^2 = 1 / sigma^2 + 1 / data_std^2.
  """

  operator: Operator
  y: Array
  noise_std: float = 0.0
  data_std: float = 1.0

  def at(self, sigma: Array) -> Energy:
    """The energy (x0, key) -> [B] at noise level sigma [] or [B]."""
    variance = jnp.square(sigma) * self.data_std**2 / (jnp.square(sigma) + self.data_std**2)

    def energy(x0, key=None):
      residual = upcast(self.y - self.operator.apply(x0))
      solved = self.operator.solve(residual, expand(variance, residual), self.noise_std**2)
      return (residual * solved).sum(tuple(range(1, residual.ndim))) / 2

    return energy


def _square(residual):
  return squared_norm(residual).reshape(-1)


def dps(
  denoiser: Denoiser, operator: Operator, y: Array, scale: float | Callable[[Array], Array] = 1.0
) -> EnergyGuidance:
  """Diffusion posterior sampling (Chung et al. 2022, algorithm 1): x_t moves by -scale * grad_{x_t} |y - A x0|.

  Use with `samplers.MeanGuided(samplers.DDPM(), variance_preserving)`. This is the paper's step zeta / |y - A x0| on
  the squared norm, with scale = 2 zeta.
  """
  return posterior_sampling(denoiser, ResidualNorm(operator, y), scale)


def pigdm(
  denoiser: Denoiser, operator: Operator, y: Array, noise_std: float = 0.0, data_std: float = 1.0
) -> EnergyGuidance:
  """Pseudoinverse-guided diffusion (Song et al. 2023, PiGDM), weighted by Bayes' rule.

  Exact for data from N(m, data_std^2); the paper uses data_std = 1.
  """
  return EnergyGuidance(denoiser, PseudoInverse(operator, y, noise_std, data_std))
