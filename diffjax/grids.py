"""Grids: the noise levels a trajectory visits.

Every grid is [num_steps + 1], descends strictly and ends in zero: `num_steps` levels above zero, then the data. A grid
that would not, such as one with sigma_min above sigma_max, raises ValueError; under jit the levels are not checked.
"""

import numbers

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from diffjax.schedules import Schedule, check_num_steps, linear
from diffjax.typing import Array, ArrayLike

DDPM = linear()
SPACINGS = ("leading", "trailing", "linspace")
ALIGN_YOUR_STEPS = {
  "sd15": (
    *(14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092),
    *(0.9642583904, 0.6523686016, 0.3977456272, 0.1515232662, 0.0291671582),
  ),
  "sdxl": (
    *(14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141),
    *(0.5550693289, 0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582),
  ),
  "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
"""The noise levels of Sabour et al. 2024 for ten steps of three published models."""


def check_grid(sigmas: Array, dtype: jnp.dtype | None = None, final_sigma: float = 0.0) -> None:
  """Raises ValueError unless sigmas are one list that descends to `final_sigma`; under jit, values are not checked.

  Values are checked in the precision in which they will be used: `dtype`, or by default the one that JAX gives them.
  """
  if np.ndim(sigmas) != 1 or len(sigmas) < 2:
    raise ValueError(f"sigmas must be a list of at least two levels, got shape {np.shape(sigmas)}; see diffjax.grids.")
  if isinstance(sigmas, Tracer):
    return
  values = np.asarray(sigmas).astype(jax.dtypes.canonicalize_dtype(dtype or np.asarray(sigmas).dtype))
  ends = values[-1] == np.asarray(final_sigma, values.dtype)
  if not (ends and np.all(np.isfinite(values)) and np.all(np.diff(values) < 0)):
    raise ValueError(
      f"sigmas must be finite, descend strictly and end in {final_sigma:g}, got {values} in {values.dtype}; use"
      " 0 < sigma_min < sigma_max, levels that differ in this precision, and schedules.MAX_SIGMA instead of infinity."
    )


def stop_at(sigmas: Array, final_sigma: float) -> Array:
  """The grid's levels above `final_sigma`, then `final_sigma` itself; under jit, the grid unchanged.

  Raises:
    ValueError: if final_sigma does not lie between the grid's first level and zero.
  """
  if isinstance(sigmas, Tracer):
    return sigmas
  if not isinstance(final_sigma, numbers.Real):
    raise ValueError(f"final_sigma is {final_sigma!r:.80}, but must be a Python number; pass float(sigma).")
  values = np.asarray(sigmas)
  if not 0 < final_sigma < values[0]:
    raise ValueError(
      f"final_sigma is {final_sigma}, but must lie between 0 and the grid's first level, {values[0]:g}; correct it."
    )
  return jnp.append(jnp.asarray(values[values > final_sigma]), final_sigma)


def end_in_zero(sigmas: ArrayLike) -> Array:
  """Appends zero, the noise level of the data, and checks the grid."""
  sigmas = jnp.append(sigmas, 0.0)
  check_grid(sigmas)
  return sigmas


def karras(num_steps: int, sigma_min: ArrayLike = 0.002, sigma_max: ArrayLike = 80.0, rho: float = 7.0) -> Array:
  """Equal steps in sigma^(1/rho) (Karras et al. 2022, eq. 5)."""
  check_num_steps(num_steps)
  power = jnp.divide(1, rho)
  ends = jnp.asarray(sigma_max) ** power, jnp.asarray(sigma_min) ** power
  return end_in_zero(jnp.linspace(*ends, num_steps) ** rho)


def exponential(num_steps: int, sigma_min: ArrayLike = 0.002, sigma_max: ArrayLike = 80.0) -> Array:
  """Equal steps in log sigma."""
  check_num_steps(num_steps)
  return end_in_zero(jnp.exp(jnp.linspace(jnp.log(sigma_max), jnp.log(sigma_min), num_steps)))


def polyexponential(
  num_steps: int, sigma_min: ArrayLike = 0.002, sigma_max: ArrayLike = 80.0, rho: float = 1.0
) -> Array:
  """Power-law steps in log sigma: equal at rho = 1, shorter near sigma_min for rho > 1 (Crowson's k-diffusion)."""
  check_num_steps(num_steps)
  low, high = jnp.log(sigma_min), jnp.log(sigma_max)
  return end_in_zero(jnp.exp(low + jnp.linspace(1, 0, num_steps) ** rho * (high - low)))


def uniform_log_snr(num_steps: int, schedule: Schedule = DDPM) -> Array:
  """Equal steps in log-SNR between the two ends of a schedule (Lu et al. 2022, DPM-Solver)."""
  return exponential(num_steps, schedule.sigma(schedule.t_min), schedule.sigma(schedule.t_max))


def beta_quantiles(num_steps: int, schedule: Schedule = DDPM, alpha: float = 0.6, beta: float = 0.6) -> Array:
  """Times at equal quantiles of a Beta(alpha, beta) distribution over a schedule's time (Lee et al. 2024).

  alpha below 1 shortens the steps near the data, beta below 1 those near the noise. Both must be Python numbers, not
  traced. On a discrete schedule, times may fall between its steps.

  Raises:
    ValueError: if alpha or beta is not above 0.
  """
  from scipy.special import betaincinv  # imported here because it is slow to import

  check_num_steps(num_steps)
  if not (alpha > 0 and beta > 0):
    raise ValueError(f"alpha and beta are {alpha} and {beta}, but must both be above 0; correct them.")
  fractions = betaincinv(alpha, beta, np.linspace(1, 0, num_steps))
  return end_in_zero(schedule.sigma(schedule.t_min + fractions * (schedule.t_max - schedule.t_min)))


def align_your_steps(num_steps: int, model: str = "sd15") -> Array:
  """The optimised levels of Stable Diffusion 1.5, SDXL or Stable Video Diffusion (Sabour et al. 2024).

  `model` is "sd15", "sdxl" or "svd". The tables are for ten steps; other numbers of steps interpolate log sigma
  linearly, as the authors do. The last level is replaced by zero.

  Raises:
    ValueError: if there is no table for the model.
  """
  check_num_steps(num_steps)
  if model not in ALIGN_YOUR_STEPS:
    raise ValueError(f"align_your_steps has no model {model!r}; choose one of {', '.join(ALIGN_YOUR_STEPS)}.")
  table = ALIGN_YOUR_STEPS[model]
  places = np.linspace(0, 1, num_steps + 1)[:-1]
  return end_in_zero(np.exp(np.interp(places, np.linspace(0, 1, len(table)), np.log(table))))


def uniform_time(num_steps: int, schedule: Schedule = DDPM, spacing: str = "trailing", offset: int = 0) -> Array:
  """Equal steps in a schedule's time (Lin et al. 2023, table 2).

  "leading" starts below the noisiest time and reaches the cleanest, "trailing" does the opposite, "linspace" visits
  both ends. On a discrete schedule, times are rounded to its steps, and `offset` is added to "leading" ones.

  Raises:
    ValueError: if the spacing is unknown, or a discrete schedule has too few steps for num_steps or offset.
  """
  check_num_steps(num_steps)
  if spacing not in SPACINGS:
    raise ValueError(f"uniform_time has no spacing {spacing!r}; choose one of {', '.join(SPACINGS)}.")
  if schedule.num_steps is not None:
    times = _discrete_times(num_steps, schedule.num_steps, spacing, offset)
  else:
    fractions = {
      "leading": np.arange(num_steps)[::-1] / num_steps,
      "trailing": np.arange(1, num_steps + 1)[::-1] / num_steps,
      "linspace": np.linspace(1, 0, num_steps),
    }[spacing]
    times = schedule.t_min + fractions * (schedule.t_max - schedule.t_min)
  return end_in_zero(schedule.sigma(times))


def _discrete_times(num_steps: int, total: int, spacing: str, offset: int) -> np.ndarray:
  if num_steps > total:
    raise ValueError(f"num_steps is {num_steps}, but the schedule has {total} steps; use at most that many.")
  if spacing == "leading":
    times = np.arange(num_steps, dtype=float)[::-1] * (total // num_steps) + offset
    if offset < 0 or times[0] > total - 1:
      raise ValueError(
        f"offset {offset} leads to time {times[0]:.0f}, but times are 0 to {total - 1}; change offset or num_steps."
      )
    return times
  if spacing == "trailing":
    return np.round(np.arange(total, 0, -total / num_steps))[:num_steps] - 1
  return np.round(np.linspace(total - 1, 0, num_steps))
