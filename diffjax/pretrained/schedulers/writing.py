"""A run's schedule as diffusers' `scheduler_config.json`."""

from collections.abc import Mapping
from typing import Any

SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squared_cosine": "squaredcos_cap_v2"}
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


def to_diffusers(schedule: Mapping[str, Any], prediction: Mapping[str, Any]) -> dict[str, Any]:
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
  betas = {key: given[key] for key in ("beta_start", "beta_end") if key in given}
  return {
    "_class_name": "DPMSolverMultistepScheduler",
    "num_train_timesteps": given.get("num_steps", 1000),
    "beta_schedule": SCHEDULES[name],
    **betas,
    "prediction_type": PREDICTIONS[prediction["name"]],
    "rescale_betas_zero_snr": zero_snr,
    "use_karras_sigmas": True,
  }
