"""Denoisers: they turn a network, whatever it predicts, into a function that predicts x0.

Every prediction has the same form in x = x0 + sigma * noise (Karras et al. 2022, eq. 7),

    x0 = c_skip * x + c_out * network(c_in * x, c_noise)

and only the four coefficients differ. Models that scale their signal (variance-preserving, flow) are handled here
once, by c_in = alpha.
"""

import abc
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from diffjax import struct
from diffjax.arrays import expand
from diffjax.checks import check_call
from diffjax.denoised import Denoised, Predictor
from diffjax.schedules import MAX_SIGMA, Schedule
from diffjax.typing import Array, Cond, Network, PyTree


class Prediction(abc.ABC):
  """Abstract: what a network was trained to output."""

  @abc.abstractmethod
  def skip_out(self, sigma: Array, schedule: Schedule) -> tuple[Array, Array]:
    """(c_skip, c_out) at sigma."""

  def in_noise(self, sigma: Array, schedule: Schedule) -> tuple[Array, Array]:
    """(c_in, c_noise) at sigma: by default the schedule's own scale and time."""
    return schedule.scaling(sigma), schedule.t(sigma)

  def to_x0(self, output: Array, x: Array, sigma: Array, schedule: Schedule) -> Array:
    """x0 [B, ...] from a network's output [B, ...] at x [B, ...], sigma [] or [B]."""
    c_skip, c_out = self.skip_out(sigma, schedule)
    return expand(c_skip, x) * x + expand(c_out, x) * output

  def from_x0(self, x0: Array, x: Array, sigma: Array, schedule: Schedule) -> Array:
    """The network output equivalent to x0: the inverse of `to_x0`, and the training target when x0 is the data."""
    c_skip, c_out = self.skip_out(sigma, schedule)
    return (x0 - expand(c_skip, x) * x) / expand(c_out, x)


def check_prediction(prediction: Prediction, schedule: Schedule) -> None:
  """Raises ValueError if noise or score is predicted and the schedule ends in pure noise; no check under jit."""
  if not isinstance(prediction, Eps | Score) or any(isinstance(a, Tracer) for a in jax.tree.leaves(schedule)):
    return
  with jax.ensure_compile_time_eval():
    highest = float(schedule.sigma(schedule.t_max))
  if highest > MAX_SIGMA / 2:
    raise ValueError(
      f"{type(prediction).__name__} does not determine x0 where the schedule ends in pure noise; predict v, x0 or the "
      "flow, or use a schedule that ends earlier."
    )


def convert(output: Array, x: Array, sigma: Array, schedule: Schedule, source: Prediction, target: Prediction) -> Array:
  """Converts a network output at (x, sigma) from one kind of prediction to another."""
  return target.from_x0(source.to_x0(output, x, sigma, schedule), x, sigma, schedule)


@struct.dataclass
class Eps(Prediction):
  """The noise (Ho et al. 2020, eq. 11)."""

  def skip_out(self, sigma, schedule):
    return jnp.ones_like(sigma), -sigma


@struct.dataclass
class X0(Prediction):
  """The data itself."""

  def skip_out(self, sigma, schedule):
    return jnp.zeros_like(sigma), jnp.ones_like(sigma)


@struct.dataclass
class V(Prediction):
  """v = alpha * noise - sigma_t * x0 of the variance-preserving scale (Salimans & Ho 2022, appendix D)."""

  def skip_out(self, sigma, schedule):
    alpha = jax.lax.rsqrt(1 + jnp.square(sigma))
    return jnp.square(alpha), -sigma * alpha


@struct.dataclass
class Flow(Prediction):
  """The velocity noise - x0 of a straight path (Lipman et al. 2022, eq. 23)."""

  def skip_out(self, sigma, schedule):
    return 1 / (1 + sigma), -sigma / (1 + sigma)


@struct.dataclass
class Score(Prediction):
  """The gradient of log density of x_t = alpha * x (Song et al. 2020, eq. 7): -noise / sigma_t."""

  def skip_out(self, sigma, schedule):
    return jnp.ones_like(sigma), jnp.square(sigma) * schedule.scaling(sigma)


@struct.dataclass
class EDM(Prediction):
  """Karras et al. 2022, table 1: unit-variance input and target at every sigma; c_noise = log(sigma) / 4."""

  sigma_data: float = 0.5

  def skip_out(self, sigma, schedule):
    total = jnp.square(sigma) + self.sigma_data**2
    return self.sigma_data**2 / total, sigma * self.sigma_data * jax.lax.rsqrt(total)

  def in_noise(self, sigma, schedule):
    return jax.lax.rsqrt(jnp.square(sigma) + self.sigma_data**2), jnp.log(sigma) / 4


@struct.dataclass
class Consistency(Prediction):
  """A consistency model in EDM's terms, the identity at sigma_min (Song et al. 2023, appendix C)."""

  sigma_data: float = 0.5
  sigma_min: float = 0.002

  def skip_out(self, sigma, schedule):
    above = sigma - self.sigma_min
    c_skip = self.sigma_data**2 / (jnp.square(above) + self.sigma_data**2)
    return c_skip, above * self.sigma_data * jax.lax.rsqrt(jnp.square(sigma) + self.sigma_data**2)

  def in_noise(self, sigma, schedule):
    return EDM(self.sigma_data).in_noise(sigma, schedule)


def _at_least_float32(x: Array, sigma: Array) -> tuple[Array, Array]:
  dtype = jnp.promote_types(jnp.result_type(x), jnp.float32)
  return jnp.asarray(x, dtype), jnp.asarray(sigma, dtype)


@struct.dataclass
class BoundNetwork:
  """A Linen module bound to its parameters; nothing downstream handles parameters."""

  params: PyTree
  module: Any = struct.field(pytree_node=False)

  def __call__(self, x: Array, c_noise: Array, cond: Cond = None, *, key: Array | None = None) -> Array:
    if callable(self.module):
      check_call("the network's module", self.module, "x, c_noise, cond, key=key")
    return self.module.apply(self.params, x, c_noise, cond, key=key)


@struct.dataclass
class NetworkDenoiser(Predictor):
  """A network as a denoiser: (x [B, ...], sigma [] or [B], cond, key=[B] keys) -> x0 [B, ...].

  `time_scale` multiplies c_noise, for networks whose time differs from the schedule's by a factor (1000 * t, for
  example). A network may output extra channels after x's own: the learned variance. Keys reach the network, and turn
  dropout on, only with `train=True`.
  """

  network: Network
  prediction: Prediction
  schedule: Schedule
  time_scale: float = 1.0
  train: bool = struct.field(pytree_node=False, default=False)

  def __post_init__(self):
    check_prediction(self.prediction, self.schedule)

  def output(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Array:
    """The raw network output at (x, sigma); the network receives c_noise as [B]."""
    check_call("network", self.network, "x, c_noise, cond, key=key")
    x, sigma = _at_least_float32(x, sigma)
    c_in, c_noise = self.prediction.in_noise(sigma, self.schedule)
    c_noise = jnp.broadcast_to(self.time_scale * c_noise, x.shape[:1]).astype(x.dtype)
    key = key if self.train else None
    return self.network(expand(c_in, x) * x, c_noise, cond, key=key)

  def predict(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Denoised:
    """x0, and the learned variance if any: extra channels in [-1, 1] (Nichol & Dhariwal 2021, eq. 15)."""
    x, sigma = _at_least_float32(x, sigma)
    output = self.output(x, sigma, cond, key=key).astype(x.dtype)
    output, extra = output[..., : x.shape[-1]], output[..., x.shape[-1] :]
    x0 = self.prediction.to_x0(output, x, sigma, self.schedule)
    return Denoised(x0, variance=(extra + 1) / 2 if extra.shape[-1] else None)
