"""Data whose ideal denoiser is known in closed form, what theory says about it, and a codec to half the size."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate

from diffjax import struct
from diffjax.arrays import expand


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Gaussian:
  """x0 ~ N(mean, std^2) in every pixel; the ideal denoiser, the exact flow and the score."""

  mean: float = 0.3
  std: float = 0.5

  def __call__(self, x, sigma, cond=None, *, key=None):
    variance = expand(jnp.square(sigma), x)
    return (self.mean * variance + self.std**2 * x) / (variance + self.std**2)

  def flow(self, x, sigma, sigma_next):
    """Where the probability-flow ODE takes x from sigma to sigma_next."""
    scale = np.sqrt((sigma_next**2 + self.std**2) / (sigma**2 + self.std**2))
    return self.mean + scale * (x - self.mean)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Mixture:
  """x0 is one of `means`, equally likely, plus N(0, std^2), in every pixel independently."""

  means: tuple[float, ...] = (-1.0, 0.2, 0.7)
  std: float = 0.3

  def __call__(self, x, sigma, cond=None, *, key=None):
    means = jnp.asarray(self.means, x.dtype).reshape((1,) * x.ndim + (-1,))
    variance = jnp.broadcast_to(expand(jnp.square(sigma), x), x.shape)
    weights = jax.nn.softmax(-jnp.square(x[..., None] - means) / (2 * (variance + self.std**2))[..., None], axis=-1)
    mean = (weights * means).sum(-1)
    return (mean * variance + self.std**2 * x) / (variance + self.std**2)

  def flow(self, x, sigma, sigma_next):
    """As for `Gaussian`, integrated to 1e-11 in log sigma."""

    denoise = jax.jit(self)

    def slope(log_sigma, x):
      return x - np.asarray(denoise(x, np.exp(log_sigma)))

    span = np.log(sigma), np.log(sigma_next)
    return scipy.integrate.solve_ivp(slope, span, np.ravel(x), rtol=1e-11, atol=1e-11).y[:, -1].reshape(np.shape(x))


def gaussian_marginal(make_sampler, denoiser, sigmas, variance):
  """Mean and variance, in closed form, of what a sampler holds at sigmas[-1], for a denoiser that is affine in x.

  All is affine, so the pictures of a batch can carry it: the first the mean, the second the response to the start, each
  further one the response to one of the numbers that the sampler draws. `make_sampler(noise)` takes the noise function.
  """
  draws = []
  num = 2 + 4 * len(sigmas)

  def noise(keys, shape):
    draws.append(None)
    return jnp.zeros(shape).at[1 + len(draws)].set(1.0)

  sampler = make_sampler(noise)
  start = float(getattr(denoiser, "mean", 0.0))
  x = jnp.full((num, 1), start, jnp.result_type(float)).at[1].add(1.0)
  carry, keys = sampler.init(x), jax.random.split(jax.random.key(0), num)
  for sigma, sigma_next in itertools.pairwise(sigmas):
    x, carry = sampler.step(denoiser, x, jnp.asarray(sigma), jnp.asarray(sigma_next), carry, keys)
  response = np.asarray(x[1:, 0] - x[0, 0])
  return float(x[0, 0]), response[0] ** 2 * variance + np.sum(response[1:] ** 2)


@struct.dataclass
class Halved:
  """A codec to half the size and twice the range, with as many channels."""

  downscaling = 2

  def encode(self, images, key=None):
    return 2 * images[:, ::2, ::2]

  def decode(self, x0):
    return jnp.repeat(jnp.repeat(x0 / 2, 2, axis=1), 2, axis=2)
