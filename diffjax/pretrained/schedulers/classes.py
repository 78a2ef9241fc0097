"""diffusers' scheduler classes: keys and defaults, noise levels, and samplers by name in `from_config.SAMPLERS`."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from diffjax import denoisers, schedules
from diffjax.pretrained.schedulers import levels
from diffjax.pretrained.schedulers.levels import Config
from diffjax.schedules import Schedule
from diffjax.typing import Array


class Scheduler(NamedTuple):
  """One of their classes: its keys and defaults, its noise levels above zero, and its method as a sampler spec.

  Without `schedule` and `prediction`, the keys beta_... and prediction_type define them. The network's time is the
  schedule's time multiplied by `time_scale`.
  """

  defaults: dict[str, Any]
  levels: Callable[[Config, Schedule, int], Array | np.ndarray]
  sampler: Callable[[Config, Schedule], dict[str, Any]]
  schedule: Callable[[Config], Schedule] | None = None
  prediction: Callable[[Config], denoisers.Prediction] | None = None
  time_scale: float = 1.0


def _ddpm(config, schedule):
  learned = config["variance_type"] == "learned_range"
  return {"name": "ddpm", "fraction": float(config["variance_type"].startswith("fixed_large")), "learned": learned}


def _dpm_multistep(config, schedule):
  order, sde = config["solver_order"], config["algorithm_type"] == "sde-dpmsolver++"
  if order == 1:
    return {"name": "euler", "eta": float(sde)}
  if sde:
    return {"name": f"dpmpp_{order}m_sde"}
  # their third-order update, as shipped by them and others, is second-order
  return {"name": "dpmpp_2m"} if order == 2 else {"name": "dpmpp_3m", "shipped": True}


def _single_step(config, schedule):
  order, algorithm = config["solver_order"], config["algorithm_type"]
  return {"name": f"dpmpp_{order}s" if algorithm == "dpmsolver++" else f"dpm_solver_{order}"}


def _cosine_dpm(config, schedule):
  return {"name": "euler", "eta": 1.0} if config["solver_order"] == 1 else {"name": "dpmpp_2m_sde"}


def _sa_solver(config, schedule):
  orders = {key: config[key] for key in ("predictor_order", "corrector_order")}
  # their default tau is 1 at times 200 to 800; times of flows are rounded down to whole ones
  times = np.array([200, 801]) / config["num_train_timesteps"] if levels.is_flow(config) else (199.5, 800.5)
  interval = tuple(float(schedule.sigma(t)) for t in times)
  return {"name": "sa_solver", "interval": interval, "shipped": True, **orders}


def _named(name, **options):
  return lambda config, schedule: {"name": name, **options}


def _edm_schedule(config):
  return schedules.SigmaAsTime(t_min=config["sigma_min"], t_max=config["sigma_max"])


def _edm_prediction(config):
  # their v_prediction has the opposite sign; of EDM's coefficients, only c_out takes the sign of sigma_data
  return denoisers.EDM(config["sigma_data"] * (-1 if config["prediction_type"] == "v_prediction" else 1))


def _angular(low=1 / schedules.MAX_SIGMA, high=schedules.MAX_SIGMA):
  """sigma = tan(pi t / 2)."""
  return schedules.Cosine(0.0, -2 * math.log(high), -2 * math.log(low))


_TRAINED = {
  "num_train_timesteps": 1000,
  "beta_start": 0.0001,
  "beta_end": 0.02,
  "beta_schedule": "linear",
  "trained_betas": None,
  "prediction_type": "epsilon",
  "steps_offset": 0,
}
_LATENT = _TRAINED | {"beta_start": 0.00085, "beta_end": 0.012}
_LEADING, _LINSPACE = {"timestep_spacing": "leading"}, {"timestep_spacing": "linspace"}
_ZERO_SNR = {"rescale_betas_zero_snr": False}
_CLIP = {"clip_sample": True, "clip_sample_range": 1.0}
_DYNAMIC = {"thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0}
_SPACED = dict.fromkeys(levels.SPACINGS, False) | {"sigma_min": None, "sigma_max": None}
_FINAL = {"final_sigmas_type": "zero"}
_SHIFTING = {"use_dynamic_shifting": False, "time_shift_type": "exponential"}
_KARRAS_STYLE = _LATENT | _LINSPACE | _SPACED
_MULTISTEP = {
  **(_TRAINED | _LINSPACE | _SPACED | _DYNAMIC | _SHIFTING),
  **{"lower_order_final": True, "use_flow_sigmas": False, "flow_shift": 1.0},
}
_DPM = {"solver_order": 2, "algorithm_type": "dpmsolver++", "solver_type": "midpoint", "euler_at_final": False}
_SINGLE_STEP = {"lower_order_final": False, "use_flow_sigmas": False, "flow_shift": 1.0}
_CLIPPED = {"lambda_min_clipped": -np.inf, "variance_type": None}
_DISTILLED = {
  **(_LATENT | _LEADING | _DYNAMIC | _ZERO_SNR | _CLIP),
  **{"beta_schedule": "scaled_linear", "clip_sample": False, "set_alpha_to_one": True},
  **{"original_inference_steps": 50, "timestep_scaling": 10.0},
}
_EDM = {
  **{"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "sigma_schedule": "karras", "rho": 7.0},
  **{"num_train_timesteps": 1000, "prediction_type": "epsilon"},
}
_CONSISTENCY = {
  **{"num_train_timesteps": 40, "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "rho": 7.0},
  **{"s_noise": 1.0, "clip_denoised": True},
}
_COSINE_DPM = {
  **{"sigma_min": 0.3, "sigma_max": 500.0, "sigma_data": 1.0, "sigma_schedule": "exponential", "rho": 7.0},
  **{"num_train_timesteps": 1000, "prediction_type": "v_prediction", "solver_order": 2, "solver_type": "midpoint"},
  **{"lower_order_final": True, "euler_at_final": False},
}
_FLOW = {"num_train_timesteps": 1000, "shift": 1.0}
_FLOW_SPACED = {
  **(_FLOW | _SPACED | _SHIFTING),
  **{"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096},
  **{"invert_sigmas": False, "shift_terminal": None},
}

SCHEDULERS = {
  "DDIMScheduler": Scheduler(
    _TRAINED | _LEADING | _CLIP | _DYNAMIC | _ZERO_SNR | {"set_alpha_to_one": True}, levels.rounded, _named("euler")
  ),
  "DDPMScheduler": Scheduler(
    _TRAINED | _LEADING | _CLIP | _DYNAMIC | _ZERO_SNR | {"variance_type": "fixed_small"}, levels.rounded, _ddpm
  ),
  "PNDMScheduler": Scheduler(
    _TRAINED | _LEADING | {"skip_prk_steps": False, "set_alpha_to_one": False},
    levels.rounded,
    lambda config, schedule: {"name": "pndm", "skip_prk": config["skip_prk_steps"]},
  ),
  "EulerDiscreteScheduler": Scheduler(
    _TRAINED | _LINSPACE | _SPACED | _ZERO_SNR | _FINAL | {"interpolation_type": "linear", "timestep_type": "discrete"},
    levels.interpolated,
    _named("euler"),
  ),
  "EulerAncestralDiscreteScheduler": Scheduler(
    _TRAINED | _LINSPACE | _ZERO_SNR, levels.interpolated, _named("euler", eta=1.0)
  ),
  "HeunDiscreteScheduler": Scheduler(
    _KARRAS_STYLE | _CLIP | {"clip_sample": False},
    levels.interpolated,
    _named("heun", scaling=schedules.variance_exploding),
  ),
  "LMSDiscreteScheduler": Scheduler(_TRAINED | _LINSPACE | _SPACED, levels.interpolated, _named("lms")),
  "IPNDMScheduler": Scheduler(
    {"num_train_timesteps": 1000, "trained_betas": None},
    levels.squared_sine,
    _named("ipndm"),
    lambda config: _angular(),
    lambda config: denoisers.V(),
  ),
  "KDPM2DiscreteScheduler": Scheduler(_KARRAS_STYLE, levels.interpolated, _named("dpm2")),
  "KDPM2AncestralDiscreteScheduler": Scheduler(_KARRAS_STYLE, levels.interpolated, _named("dpm2_ancestral")),
  "DPMSolverSDEScheduler": Scheduler(
    _KARRAS_STYLE | {"noise_sampler_seed": None}, levels.interpolated, _named("dpmpp_sde")
  ),
  "DPMSolverSinglestepScheduler": Scheduler(
    _TRAINED | _SPACED | _DYNAMIC | _SHIFTING | _DPM | _CLIPPED | _FINAL | _SINGLE_STEP,
    levels.single_step,
    _single_step,
  ),
  "CosineDPMSolverMultistepScheduler": Scheduler(
    _COSINE_DPM | _FINAL,
    levels.edm,
    _cosine_dpm,
    lambda config: _angular(config["sigma_min"], config["sigma_max"]),
    lambda config: denoisers.V(),
  ),
  "DPMSolverMultistepScheduler": Scheduler(
    _MULTISTEP | _DPM | _CLIPPED | _FINAL | _ZERO_SNR | {"use_lu_lambdas": False}, levels.multistep, _dpm_multistep
  ),
  "DEISMultistepScheduler": Scheduler(
    _MULTISTEP | {"solver_order": 2, "algorithm_type": "deis", "solver_type": "logrho"},
    levels.multistep,
    lambda config, schedule: {"name": "deis", "order": config["solver_order"]},
  ),
  "UniPCMultistepScheduler": Scheduler(
    _MULTISTEP
    | _FINAL
    | _ZERO_SNR
    | {"solver_order": 2, "solver_type": "bh2", "predict_x0": True, "disable_corrector": [], "solver_p": None}
    | {"shift_terminal": None},
    levels.unipc,
    lambda config, schedule: {"name": "unipc", "order": config["solver_order"], "kind": config["solver_type"]},
  ),
  "SASolverScheduler": Scheduler(
    _MULTISTEP
    | _CLIPPED
    | {"predictor_order": 2, "corrector_order": 2, "tau_func": None, "algorithm_type": "data_prediction"},
    levels.multistep,
    _sa_solver,
  ),
  "LCMScheduler": Scheduler(_DISTILLED, levels.distilled, _named("lcm")),
  "TCDScheduler": Scheduler(_DISTILLED, levels.distilled, _named("tcd")),
  "CMStochasticIterativeScheduler": Scheduler(
    _CONSISTENCY,
    levels.taught,
    lambda config, schedule: {"name": "consistency", "sigma_min": config["sigma_min"]},
    _edm_schedule,
    lambda config: denoisers.Consistency(config["sigma_data"], config["sigma_min"]),
    time_scale=1000.0,
  ),
  "EDMEulerScheduler": Scheduler(_EDM | _FINAL, levels.edm, _named("euler"), _edm_schedule, _edm_prediction),
  "EDMDPMSolverMultistepScheduler": Scheduler(
    _EDM | _FINAL | _DYNAMIC | _DPM | {"lower_order_final": True},
    levels.edm,
    _dpm_multistep,
    _edm_schedule,
    _edm_prediction,
  ),
  "FlowMatchEulerDiscreteScheduler": Scheduler(
    _FLOW_SPACED | {"stochastic_sampling": False},
    levels.flow_match,
    lambda config, schedule: {"name": "lcm" if config["stochastic_sampling"] else "euler"},
  ),
  "FlowMatchLCMScheduler": Scheduler(
    _FLOW_SPACED | {"scale_factors": None, "upscale_mode": "bicubic"}, levels.flow_match, _named("lcm")
  ),
  "FlowMatchHeunDiscreteScheduler": Scheduler(_FLOW, levels.flow_match, _named("heun", scaling=schedules.flow)),
}
SCHEDULERS["DDIMParallelScheduler"] = SCHEDULERS["DDIMScheduler"]
SCHEDULERS["DDPMParallelScheduler"] = SCHEDULERS["DDPMScheduler"]
"""Their scheduler classes by name."""
