"""A run's schedule as diffusers' `scheduler_config.json`."""

from collections.abc import Mapping
from typing import Any

SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squared_cosine": "squaredcos_cap_v2"}
BETAS = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012), "squared_cosine": (1e-4, 0.02)}
"""Defaults of beta_start and beta_end; the squared cosine has none, and diffusers ignores them."""
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


def to_diffusers(schedule: Mapping[str, Any], prediction: Mapping[str, Any], time_scale: float = 1.0) -> dict[str, Any]:
  """The configuration of "DPM++ 2M Karras" for a run's `schedule` and `prediction`, which `from_diffusers` reads.

  Raises:
    ValueError: diffusers has no such schedule or prediction.
  """
  given = {key: value for key, value in schedule.items() if (key, value) != ("shift", 1.0)}
  name, zero_snr = given.pop("name", None), given.pop("zero_terminal_snr", False)
  if name not in SCHEDULES or set(given) - {"num_steps", "beta_start", "beta_end"}:
    raise ValueError(
      f"diffusers' schedulers have no schedule {dict(schedule)}; only {', '.join(SCHEDULES)}, without a shift, can be"
      " saved for it."
    )
  if prediction.get("name") not in PREDICTIONS:
    raise ValueError(f"diffusers' schedulers have no prediction {dict(prediction)}; use {', '.join(PREDICTIONS)}.")
  if time_scale != 1.0:
    raise ValueError(f"diffusers' schedulers have no time_scale {time_scale}; only 1 can be saved for it.")
  betas = {key: given.get(key, beta) for key, beta in zip(("beta_start", "beta_end"), BETAS[name])}
  return {
    "_class_name": "DPMSolverMultistepScheduler",
    "num_train_timesteps": given.get("num_steps", 1000),
    "beta_schedule": SCHEDULES[name],
    **betas,
    "prediction_type": PREDICTIONS[prediction["name"]],
    "rescale_betas_zero_snr": zero_snr,
    "use_karras_sigmas": True,
  }
