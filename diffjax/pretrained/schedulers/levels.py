"""The noise levels above zero, [num_steps], that diffusers' schedulers visit."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from diffjax import grids, schedules
from diffjax.schedules import Schedule
from diffjax.typing import Array

Config = Mapping[str, Any]

SPACINGS: dict[str, Callable[..., Array]] = {
  "use_karras_sigmas": grids.karras,
  "use_exponential_sigmas": grids.exponential,
  "use_beta_sigmas": lambda num_steps, low, high: grids.beta_quantiles(
    num_steps, schedules.SigmaAsTime(t_min=low, t_max=high)
  ),
}
"""Alternative levels between the same ends, by the key that selects them."""
OWN_ENDS = ("LMSDiscreteScheduler", "DPMSolverSDEScheduler")
"""Classes in which Karras' levels always span the schedule's own ends."""


def is_flow(config: Config) -> bool:
  return "shift" in config or bool(config.get("use_flow_sigmas"))


def rounded(config: Config, schedule: Schedule, num_steps: int) -> np.ndarray:
  return np.asarray(
    grids.uniform_time(num_steps, schedule, config["timestep_spacing"], config["steps_offset"])[:-1], np.float64
  )


def interpolated(config: Config, schedule: Schedule, num_steps: int) -> np.ndarray:
  """As `rounded`, but linspace does not round its times, and interpolates sigma linearly between steps."""
  if config["timestep_spacing"] != "linspace":
    return _spaced(config, rounded(config, schedule, num_steps), num_steps)
  every = _every(schedule)
  times = np.linspace(len(every) - 1, 0, num_steps)
  return _spaced(config, np.interp(times, np.arange(len(every)), every), num_steps)


def multistep(config: Config, schedule: Schedule, num_steps: int) -> np.ndarray:
  """leading and linspace divide by num_steps + 1, as no step is at time 0; other spacings span the whole schedule."""
  if is_flow(config):
    t = 1 - np.linspace(1, 1 / config["num_train_timesteps"], num_steps + 1)[:0:-1]
    return _flow_levels(_shifted(t, config["flow_shift"]))
  every = _every(schedule)
  if any(config[key] for key in SPACINGS):
    return _spaced(config, every[::-1], num_steps)
  if config.get("use_lu_lambdas"):
    return np.asarray(grids.uniform_log_snr(num_steps, schedule)[:-1])
  total = int(np.sum(-np.log(every) >= config.get("lambda_min_clipped", -np.inf)))
  times = {
    "linspace": lambda: np.linspace(0, total - 1, num_steps + 1).round()[:0:-1],
    "leading": lambda: np.arange(num_steps, 0, -1) * (total // (num_steps + 1)) + config["steps_offset"],
    "trailing": lambda: np.arange(total, 0, -len(every) / num_steps).round() - 1,
  }[config["timestep_spacing"]]()
  return every[_descending(times.astype(int), schedule, num_steps)]


def unipc(config: Config, schedule: Schedule, num_steps: int) -> np.ndarray:
  """As `multistep`, but flows start at pure noise, t = 1 less 1e-6."""
  if not is_flow(config):
    return multistep(config, schedule, num_steps)
  t = _shifted(np.linspace(1, 1 / config["num_train_timesteps"], num_steps + 1)[:-1], config["flow_shift"])
  t[0] = min(t[0], 1 - 1e-6)
  return _flow_levels(t)


def single_step(config: Config, schedule: Schedule, num_steps: int) -> np.ndarray:
  """The levels at which steps begin; the order - 1 levels between two of them are a step's intermediate points."""
  spacing = {"timestep_spacing": "linspace"}
  return multistep({**config, **spacing}, schedule, num_steps)[:: config["solver_order"]]


def squared_sine(config: Config, schedule: Schedule, num_steps: int) -> np.ndarray:
  """sigma_t = sin(pi s / 2)^2 for equal steps in s, from 1."""
  sigma_t = np.sin(np.pi / 2 * np.linspace(1, 0, num_steps + 1)[:-1]) ** 2
  with np.errstate(divide="ignore"):
    return np.minimum(sigma_t / np.sqrt(1 - sigma_t**2), schedules.MAX_SIGMA)


def taught(config: Config, schedule: Schedule, num_steps: int) -> np.ndarray:
  """A subset of the levels of the Karras grid that a consistency model was trained on."""
  total = config["num_train_timesteps"]
  if num_steps > total:
    raise ValueError(f"num_steps is {num_steps}, but there are only {total} levels; use at most as many steps.")
  every = grids.karras(total, config["sigma_min"], config["sigma_max"], config["rho"])[:-1]
  return np.asarray(every)[np.arange(num_steps) * (total // num_steps)]


def distilled(config: Config, schedule: Schedule, num_steps: int) -> np.ndarray:
  """A subset of the `original_inference_steps` that a latent consistency model was distilled with."""
  original, total = config["original_inference_steps"], schedule.num_steps
  if num_steps > original:
    raise ValueError(f"num_steps is {num_steps}, but can be at most original_inference_steps = {original}; lower it.")
  taught = np.arange(original, 0, -1) * (total // original) - 1
  times = taught[np.floor(np.linspace(0, original, num_steps, endpoint=False)).astype(int)]
  return np.asarray(schedule.sigma(_descending(times, schedule, num_steps)))


def flow_match(config: Config, schedule: Schedule, num_steps: int) -> np.ndarray:
  total, shift = config["num_train_timesteps"], config["shift"]
  t = np.linspace(1, _shifted(1 / total, shift), num_steps)  # shifts the lower end once more, as they do
  return _flow_levels(_spaced(config, _shifted(t, shift), num_steps))


def edm(config: Config, schedule: Schedule, num_steps: int) -> Array:
  if config["sigma_schedule"] == "karras":
    return grids.karras(num_steps, config["sigma_min"], config["sigma_max"], config["rho"])[:-1]
  return grids.exponential(num_steps, config["sigma_min"], config["sigma_max"])[:-1]


def _every(schedule: Schedule) -> np.ndarray:
  """The level of each step of a discrete schedule."""
  return np.asarray(schedule.sigma(np.arange(schedule.num_steps or 0)), np.float64)


def _descending(times, schedule, num_steps):
  total = schedule.num_steps
  if len(times) != num_steps or times[-1] < 0 or times[0] >= total or np.any(np.diff(times) >= 0):
    raise ValueError(
      f"{num_steps} steps would visit the times {times.tolist()}, which must descend within 0..{total - 1}; "
      "use fewer steps, or check timestep_spacing and steps_offset."
    )
  return times


def _shifted(t, shift):
  return shift * t / (1 + (shift - 1) * t)


def _flow_levels(t):
  with np.errstate(divide="ignore"):
    return np.minimum(t / (1 - t), schedules.MAX_SIGMA)


def _spaced(config, levels, num_steps):
  """The levels, or as many alternative ones between their ends if one of `use_..._sigmas` is set."""
  ends = float(levels[-1]), float(levels[0])
  asked = config.get("sigma_min") or ends[0], config.get("sigma_max") or ends[1]
  for key, make in SPACINGS.items():
    if config.get(key):
      own = key == "use_karras_sigmas" and config["_class_name"] in OWN_ENDS
      return np.asarray(make(num_steps, *(ends if own else asked))[:-1])
  return levels
