"""Grids: the noise levels a trajectory visits.

Every grid is [num_steps + 1], descends strictly and ends in zero: `num_steps` levels above zero, then the data.
"""

import jax.numpy as jnp
import numpy as np

from diffjax.schedules import Schedule, linear
from diffjax.typing import Array

DDPM = linear()
SPACINGS = ("leading", "trailing", "linspace")


def check_num_steps(num_steps: int) -> None:
  """Raises ValueError unless num_steps is a whole number of at least 1."""
  if int(num_steps) != num_steps or num_steps < 1:
    raise ValueError(f"num_steps is {num_steps}, but must be a whole number of at least 1.")


def end_in_zero(sigmas: Array) -> Array:
  """Appends the data's noise level: the step to zero is handled here once for all grids."""
  return jnp.append(sigmas, 0.0)


def karras(num_steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Array:
  """Equal steps in sigma^(1/rho) (Karras et al. 2022, eq. 5)."""
  check_num_steps(num_steps)
  ends = jnp.asarray(sigma_max) ** (1 / rho), jnp.asarray(sigma_min) ** (1 / rho)
  return end_in_zero(jnp.linspace(*ends, num_steps) ** rho)


def exponential(num_steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Array:
  """Equal steps in log sigma."""
  check_num_steps(num_steps)
  return end_in_zero(jnp.exp(jnp.linspace(jnp.log(sigma_max), jnp.log(sigma_min), num_steps)))


def uniform_log_snr(num_steps: int, schedule: Schedule = DDPM) -> Array:
  """Equal steps in log-SNR between the two ends of a schedule (Lu et al. 2022, section 4.1)."""
  return exponential(num_steps, schedule.sigma(schedule.t_min), schedule.sigma(schedule.t_max))


def uniform_time(num_steps: int, schedule: Schedule = DDPM, spacing: str = "trailing", offset: int = 0) -> Array:
  """Equal steps in a schedule's time (Lin et al. 2023, table 2).

  "leading" starts below the noisiest time and reaches the cleanest, "trailing" does the opposite, "linspace" visits
  both ends. The times of a discrete schedule are rounded to its steps; `offset` is added to leading ones.

  Raises:
    ValueError: if the spacing is unknown, or a discrete schedule has fewer steps than num_steps or offset ask for.
  """
  check_num_steps(num_steps)
  if spacing not in SPACINGS:
    raise ValueError(f"spacing is {spacing!r}, but must be one of {', '.join(SPACINGS)}.")
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
    raise ValueError(f"num_steps is {num_steps}, but the schedule has {total} steps; ask for at most as many.")
  if spacing == "leading":
    times = np.arange(num_steps, dtype=float)[::-1] * (total // num_steps) + offset
    if offset < 0 or times[0] > total - 1:
      raise ValueError(
        f"offset {offset} leads to time {times[0]:.0f}, but times are 0 to {total - 1}; lower it, or num_steps."
      )
    return times
  if spacing == "trailing":
    return np.round(np.arange(total, 0, -total / num_steps))[:num_steps] - 1
  return np.round(np.linspace(total - 1, 0, num_steps))
