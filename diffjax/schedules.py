"""Noise schedules: how much signal and noise a sample contains at time t.

Each schedule defines its log-SNR and the inverse; everything else follows. `scaling` gives alpha, the signal's scale:

    x_t = alpha * x0 + sigma_t * noise = alpha * (x0 + sigma * noise),  sigma = sigma_t / alpha = exp(-log_snr / 2)

so that denoisers and samplers always see x = x_t / alpha, whatever family a model belongs to.
"""

import abc
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import struct
from diffjax.arrays import expand
from diffjax.typing import Array, ArrayLike

MAX_SIGMA = 1e5
"""Represents an infinite noise-to-signal ratio (a flow at t = 1, zero terminal SNR); float32 still resolves x0."""
MIN_LOG_SNR = -2 * math.log(MAX_SIGMA)


def check_num_steps(num_steps: int) -> None:
  """Raises ValueError unless num_steps is a whole number from 1 to 2^20."""
  if not isinstance(num_steps, numbers.Integral) or not 1 <= num_steps <= 2**20:
    raise ValueError(f"num_steps is {num_steps!r:.80}, but must be a whole number from 1 to 1048576; correct it.")


def variance_preserving(sigma: Array) -> Array:
  """alpha with alpha^2 + sigma_t^2 = 1."""
  return jax.lax.rsqrt(1 + jnp.square(sigma))


def variance_exploding(sigma: Array) -> Array:
  """alpha = 1."""
  return jnp.ones_like(sigma)


def flow(sigma: Array) -> Array:
  """alpha with alpha + sigma_t = 1."""
  return 1 / (1 + sigma)


def _static(default):
  return struct.field(pytree_node=False, default=default)


class Schedule(abc.ABC):
  """Abstract: times run from `t_min` (least noise) to `t_max` (most); methods are elementwise, t of any shape.

  `num_steps` is None for continuous time, else T, with integer times 0..T-1.
  """

  scaling: Callable[[Array], Array]
  t_min: float
  t_max: float
  num_steps: int | None = None

  @abc.abstractmethod
  def log_snr(self, t: ArrayLike) -> Array:
    """log(alpha^2 / sigma_t^2) at time t."""

  @abc.abstractmethod
  def time(self, log_snr: ArrayLike) -> Array:
    """The time at which the schedule has this log-SNR: the inverse of `log_snr`."""

  def sigma(self, t: ArrayLike) -> Array:
    """The noise-to-signal ratio at time t, at most MAX_SIGMA."""
    return jnp.exp(-jnp.maximum(self.log_snr(t), MIN_LOG_SNR) / 2)

  def t(self, sigma: ArrayLike) -> Array:
    """The time at which the noise-to-signal ratio is sigma."""
    return self.time(-2 * jnp.log(sigma))

  def alpha_sigma(self, t: ArrayLike) -> tuple[Array, Array]:
    """(alpha, sigma_t) of x_t = alpha * x0 + sigma_t * noise."""
    sigma = self.sigma(t)
    alpha = self.scaling(sigma)
    return alpha, alpha * sigma

  def sigma_below(self, sigma: ArrayLike) -> Array:
    """For discrete time: the noise level one step below sigma's; below the first step, zero (the data)."""
    t = jnp.round(self.t(sigma))
    return jnp.where(t > 0, self.sigma(jnp.maximum(t - 1, 0)), 0)

  def add_noise(self, x0: Array, noise: Array, t: ArrayLike) -> Array:
    """x_t in one step from x0 [B, ...] and noise [B, ...], at t [] or [B] (Ho et al. 2020, eq. 4)."""
    alpha, sigma_t = self.alpha_sigma(t)
    return expand(alpha, x0) * x0 + expand(sigma_t, x0) * noise


@struct.dataclass
class Discrete(Schedule):
  """T steps given by their log-SNR; t in 0..T-1, with log-SNR linear in t between steps."""

  log_snrs: Array | np.ndarray
  scaling: Callable = _static(variance_preserving)

  @property
  def num_steps(self) -> int:
    return self.log_snrs.shape[0]

  @property
  def t_min(self) -> float:
    return 0.0

  @property
  def t_max(self) -> float:
    return float(self.num_steps - 1)

  @property
  def alphas_cumprod(self) -> Array:
    """alpha^2 of each step [T]; "alpha bar" in Ho et al. 2020."""
    return jax.nn.sigmoid(jnp.asarray(self.log_snrs))

  def log_snr(self, t):
    return jnp.interp(t, np.arange(self.num_steps), self.log_snrs).astype(jnp.result_type(t, float))

  def time(self, log_snr):
    times = jnp.interp(-log_snr, -jnp.asarray(self.log_snrs), np.arange(self.num_steps))
    return times.astype(jnp.result_type(log_snr, float))


def from_alphas_cumprod(alphas_cumprod: np.ndarray) -> Discrete:
  """Discrete schedule from alpha^2 of each step, [T], descending in [0, 1); below 1e-10, sigma is MAX_SIGMA.

  Raises:
    ValueError: if the values do not descend strictly within [0, 1), or several lie below 1e-10.
  """
  alphas_cumprod = np.asarray(alphas_cumprod, np.float64)
  right = alphas_cumprod.ndim == 1 and alphas_cumprod.size > 0 and np.all(np.diff(alphas_cumprod) < 0)
  if not right or not 0 <= alphas_cumprod[-1] <= alphas_cumprod[0] < 1:
    raise ValueError(
      "alphas_cumprod must be one list that descends strictly within [0, 1); check the betas it came from."
    )
  with np.errstate(divide="ignore"):
    log_snrs = np.log(alphas_cumprod) - np.log1p(-alphas_cumprod)
  if log_snrs.size > 1 and log_snrs[-2] <= MIN_LOG_SNR:
    raise ValueError("more than one step has no signal left, alpha^2 < 1e-10; use fewer steps or a lower beta_end.")
  return Discrete(np.maximum(log_snrs, MIN_LOG_SNR))


def from_betas(betas: np.ndarray) -> Discrete:
  """Discrete schedule from the variance that each step adds, [T] in (0, 1] (Ho et al. 2020, eq. 2)."""
  betas = np.asarray(betas, np.float64)
  if betas.ndim != 1 or betas.size == 0 or not np.all((betas > 0) & (betas <= 1)):
    raise ValueError(
      f"betas must be one list of numbers in (0, 1], got shape {betas.shape}; check beta_start and beta_end."
    )
  return from_alphas_cumprod(np.cumprod(1 - betas))


def linear(num_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Discrete:
  """Linearly spaced betas (Ho et al. 2020, section 4)."""
  check_num_steps(num_steps)
  return from_betas(np.linspace(beta_start, beta_end, num_steps))


def scaled_linear(num_steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Discrete:
  """Betas with linearly spaced square roots (Rombach et al. 2022, latent diffusion)."""
  check_num_steps(num_steps)
  return from_betas(np.linspace(beta_start**0.5, beta_end**0.5, num_steps) ** 2)


def sigmoid_betas(num_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Discrete:
  """Betas along a sigmoid over [-6, 6] (Xu et al. 2022, GeoDiff); later papers' sigmoid schedule is `Sigmoid`."""
  check_num_steps(num_steps)
  return from_betas(beta_start + (beta_end - beta_start) / (1 + np.exp(-np.linspace(-6, 6, num_steps))))


def squared_cosine(num_steps: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> Discrete:
  """The cosine schedule in T steps, betas capped (Nichol & Dhariwal 2021, eq. 17)."""
  check_num_steps(num_steps)
  if not s >= 0:
    raise ValueError(f"s is {s}, but must not be negative; use 0.008, for example.")
  signal = np.cos((np.arange(num_steps + 1) / num_steps + s) / (1 + s) * np.pi / 2) ** 2
  return from_betas(np.minimum(1 - signal[1:] / signal[:-1], max_beta))


def discretize(schedule: Schedule, num_steps: int) -> Discrete:
  """T steps of a continuous schedule: step i is at the fraction (i + 1) / T of its times."""
  check_num_steps(num_steps)
  fractions = np.arange(1, num_steps + 1) / num_steps
  log_snrs = schedule.log_snr(schedule.t_min + fractions * (schedule.t_max - schedule.t_min))
  return Discrete(jnp.maximum(log_snrs, MIN_LOG_SNR), schedule.scaling)


def zero_terminal_snr(schedule: Discrete) -> Discrete:
  """Shifts and scales alpha so that the last step has no signal, the first unchanged (Lin et al. 2023, algorithm 1).

  The last step's sigma is MAX_SIGMA, which represents infinity.

  Raises:
    ValueError: if the schedule is not discrete, not variance-preserving, or has only one step.
  """
  if not isinstance(schedule, Discrete) or schedule.num_steps < 2:
    raise ValueError(f"zero_terminal_snr needs several discrete steps, got {schedule}; use linear(), for example.")
  if schedule.scaling is not variance_preserving:
    raise ValueError("zero_terminal_snr needs a variance-preserving schedule, unlike this; use one such as linear().")
  alpha = np.sqrt(1 / (1 + np.exp(-np.asarray(schedule.log_snrs, np.float64))))
  alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
  return from_alphas_cumprod(alpha**2)


@struct.dataclass
class Cosine(Schedule):
  """Continuous cosine schedule (Nichol & Dhariwal 2021, eq. 17), t in [0, 1] where log-SNR is within its bounds."""

  s: float = 0.008
  log_snr_min: float = -10.2
  log_snr_max: float = 20.0
  scaling: Callable = _static(variance_preserving)

  @property
  def t_min(self):
    return self.time(self.log_snr_max)

  @property
  def t_max(self):
    return self.time(self.log_snr_min)

  def _angle(self, t):
    return t / (1 + self.s) * (np.pi / 2)

  def log_snr(self, t):
    # cosines near pi / 2, and differences of them near t = 0, would cancel; sines do not
    log_signal = 2 * jnp.log(jnp.maximum(jnp.sin(self._angle(1 - t)), 1e-12))
    noise = jnp.sin(self._angle(t)) * jnp.sin(self._angle(t + 2 * self.s))
    return jnp.clip(log_signal - jnp.log(jnp.maximum(noise, 1e-12)), self.log_snr_min, self.log_snr_max)

  def time(self, log_snr):
    sin_s, cos_s = jnp.sin(self._angle(self.s)), jnp.cos(self._angle(self.s))
    noise = cos_s**2 * jax.nn.sigmoid(-log_snr)
    sin, cos = jnp.sqrt(sin_s**2 + noise), cos_s * jnp.sqrt(jax.nn.sigmoid(log_snr))
    # the difference of two angles by the addition theorems: sin(a - b) = (sin(a)^2 - sin(b)^2) / sin(a + b)
    angle = jnp.arctan2(noise / (sin * cos_s + cos * sin_s), cos * cos_s + sin * sin_s)
    return jnp.clip(angle * (1 + self.s) * (2 / np.pi), 0, 1)


@struct.dataclass
class Sigmoid(Schedule):
  """alpha^2 falls from 1 to 0 as a sigmoid between `start` and `end`, t in [0, 1] (Chen 2023, algorithm 1).

  `tau` stretches the sigmoid, and alpha^2 stays within [clip_min, 1 - clip_min].
  """

  start: float = -3.0
  end: float = 3.0
  tau: float = 1.0
  clip_min: float = 1e-9
  scaling: Callable = _static(variance_preserving)
  t_min: float = _static(0.0)
  t_max: float = _static(1.0)

  def _width_offset(self):
    offset = jax.nn.log_sigmoid(self.end / self.tau) - jax.nn.log_sigmoid(self.start / self.tau)
    return (self.end - self.start) / self.tau, offset

  def log_snr(self, t):
    # a difference that does not cancel: sigmoid(b) - sigmoid(a) = -expm1(a - b) * sigmoid(b) * sigmoid(-a)
    width, offset = self._width_offset()
    signal, noise = -jnp.expm1(-(1 - t) * width), -jnp.expm1(-t * width)
    log_snr = jnp.log(jnp.maximum(signal, 1e-30)) - jnp.log(jnp.maximum(noise, 1e-30)) - t * width + offset
    bound = jnp.log1p(-self.clip_min) - jnp.log(self.clip_min)
    return jnp.clip(log_snr, -bound, bound)

  def time(self, log_snr):
    width, offset = self._width_offset()
    rest = offset - log_snr
    return (jax.nn.softplus(rest) - jax.nn.softplus(rest - width)) / width


@struct.dataclass
class VP(Schedule):
  """Continuous variance-preserving SDE with linear beta(t), t in [0.001, 1] (Song et al. 2020, eq. 32-33)."""

  beta_min: float = 0.1
  beta_max: float = 20.0
  scaling: Callable = _static(variance_preserving)
  t_min: float = _static(1e-3)
  t_max: float = _static(1.0)

  def log_snr(self, t):
    return -jnp.log(jnp.expm1(t * (self.beta_min + t * (self.beta_max - self.beta_min) / 2)))

  def time(self, log_snr):
    integral = jax.nn.softplus(-log_snr)
    slope = self.beta_max - self.beta_min
    return 2 * integral / (jnp.sqrt(self.beta_min**2 + 2 * slope * integral) + self.beta_min)


@struct.dataclass
class VE(Schedule):
  """Variance-exploding SDE: sigma grows geometrically, t in [0, 1] (Song et al. 2020, eq. 30-31)."""

  sigma_min: float = 0.01
  sigma_max: float = 50.0
  scaling: Callable = _static(variance_exploding)
  t_min: float = _static(0.0)
  t_max: float = _static(1.0)

  def log_snr(self, t):
    return -2 * (jnp.log(self.sigma_min) + t * (jnp.log(self.sigma_max) - jnp.log(self.sigma_min)))

  def time(self, log_snr):
    return (-log_snr / 2 - jnp.log(self.sigma_min)) / (jnp.log(self.sigma_max) - jnp.log(self.sigma_min))


@struct.dataclass
class SigmaAsTime(Schedule):
  """sigma(t) = t, t in [0.002, 80] (Karras et al. 2022, table 1)."""

  scaling: Callable = _static(variance_exploding)
  t_min: float = _static(0.002)
  t_max: float = _static(80.0)

  def log_snr(self, t):
    return -2 * jnp.log(t)

  def time(self, log_snr):
    return jnp.exp(-log_snr / 2)


@struct.dataclass
class RectifiedFlow(Schedule):
  """Straight lines from data at t = 0 to noise at t = 1 (Liu et al. 2022, eq. 1; Lipman et al. 2022, eq. 22).

  Training and sampling use t in [0.001, 1]: below that, log-SNR diverges while the sample hardly changes.
  """

  scaling: Callable = _static(flow)
  t_min: float = _static(1e-3)
  t_max: float = _static(1.0)

  def log_snr(self, t):
    tiny = 1 / MAX_SIGMA**2
    return 2 * (jnp.log(jnp.maximum(1 - t, tiny)) - jnp.log(jnp.maximum(t, tiny)))

  def time(self, log_snr):
    return jax.nn.sigmoid(-log_snr / 2)


@struct.dataclass
class Shifted(Schedule):
  """A schedule with its noise-to-signal ratio multiplied by `shift`, for larger images than it was designed for.

  For variance-preserving models shift = resolution / base resolution (Hoogeboom et al. 2023); for flows it
  is t -> shift * t / (1 + (shift - 1) * t) (Esser et al. 2024, eq. 23).
  """

  schedule: Schedule
  shift: float = 1.0

  @property
  def scaling(self):
    return self.schedule.scaling

  @property
  def num_steps(self):
    return self.schedule.num_steps

  @property
  def t_min(self):
    return self.schedule.t_min

  @property
  def t_max(self):
    return self.schedule.t_max

  def log_snr(self, t):
    return self.schedule.log_snr(t) - 2 * jnp.log(self.shift)

  def time(self, log_snr):
    return self.schedule.time(log_snr + 2 * jnp.log(self.shift))


def from_diffusers(config: Mapping[str, Any]) -> Any:
  """The schedule, prediction, grid and sampler described by a diffusers `scheduler_config.json`, read as a dict.

  Returns a `diffjax.pretrained.Published`; pass the number of steps to its `.grid`. Keys of other diffusers schedulers
  are ignored, as in diffusers.

  Raises:
    ValueError: if a class, key or value is unknown or has no counterpart, or keys contradict each other.

  Example:
    >>> import diffjax
    >>> published = diffjax.schedules.from_diffusers({"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear"})
    >>> published.sampler.eta, published.grid(20).shape
    (0.0, (21,))
  """
  from diffjax.pretrained.schedulers import from_diffusers

  return from_diffusers(config)
