"""Published configurations: diffusers' `scheduler_config.json` as a schedule, a prediction, a grid and a sampler.

Their keys, defaults and noise levels, in the terms of this library. Intended differences:

- The last step goes to zero noise. Where theirs leaves some, by `set_alpha_to_one` or `final_sigmas_type`, our
  `final_sigma` says how much.
- The network's time follows from the noise level; on some grids they round, truncate or interpolate it differently.
- Multistep samplers combine eps or x0, whatever the network predicts; their PNDM combines v for v-prediction.
- The second step of a third-order solver integrates the line through both x0, as theirs does with solver_type "heun".
- Multistep samplers keep their order to the end; `lower_order_final` lowers theirs for fewer than 15 steps.
- The intermediate points of a single step are where the papers put them, not at levels of the grid; `grid(num_steps)`
  then has about num_steps / solver_order levels, with as many network calls as theirs.
- Their IPNDM sets x0 to zero at its first, infinite level; ours uses the network's prediction.
- The noise within a step of DPMSolverSDE is that of the SDE, not a Brownian motion over sigma.
- Where x0 is clipped, the noise is recomputed from it. Their DDIM does so with `use_clipped_model_output=True`.
"""

import dataclasses
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffjax import checks, denoisers, from_config, grids, guidance, schedules
from diffjax.from_config import construction
from diffjax.pretrained.schedulers import levels
from diffjax.pretrained.schedulers.classes import SCHEDULERS, Scheduler
from diffjax.pretrained.schedulers.levels import Config
from diffjax.schedules import Schedule
from diffjax.typing import Array, Denoiser, Network, Sampler

BETAS: dict[str, Callable[..., schedules.Discrete]] = {
  "linear": schedules.linear,
  "scaled_linear": schedules.scaled_linear,
  "squaredcos_cap_v2": lambda total, beta_start, beta_end: schedules.squared_cosine(total),
  "sigmoid": schedules.sigmoid_betas,
}
PREDICTIONS = {
  "epsilon": denoisers.Eps,
  "sample": denoisers.X0,
  "v_prediction": denoisers.V,
  "flow_prediction": denoisers.Flow,
}
WITH_INFINITY = ("DDIMScheduler", "DDPMScheduler", "LCMScheduler", "TCDScheduler")
"""Classes in which zero terminal SNR is an infinite sigma; the others use 4096 for it."""
FROM_NOISE_ALONE = (
  "CMStochasticIterativeScheduler",
  "DPMSolverSDEScheduler",
  "EulerAncestralDiscreteScheduler",
  "EulerDiscreteScheduler",
  "HeunDiscreteScheduler",
  "KDPM2AncestralDiscreteScheduler",
  "KDPM2DiscreteScheduler",
  "LMSDiscreteScheduler",
)
"""Classes that start at sigma * noise, unless their spacing is "leading"; others, and then, at unit variance."""
ALWAYS_NOISY = ("DEISMultistepScheduler", "SASolverScheduler")
"""Classes that always end at the schedule's first level, whatever the configuration."""
CHOICES = {
  "beta_schedule": tuple(BETAS),
  "prediction_type": tuple(PREDICTIONS),
  "timestep_spacing": grids.SPACINGS,
  "timestep_type": ("discrete",),
  "interpolation_type": ("linear",),
  "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned_range"),
  "algorithm_type": ("dpmsolver++", "sde-dpmsolver++", "deis", "data_prediction"),
  "s_noise": (1.0,),
  "scale_factors": (None, [], ()),
  "solver_order": (1, 2, 3),
  "final_sigmas_type": ("zero", "sigma_min"),
  "sigma_schedule": ("karras", "exponential"),
  "invert_sigmas": (False,),
  "shift_terminal": (None,),
  "predict_x0": (True,),
  "disable_corrector": ([], ()),
  "solver_p": (None,),
  "tau_func": (None,),
}
"""Allowed values of keys; some of theirs have no counterpart here."""
CHOICES_OF = {
  "CosineDPMSolverMultistepScheduler": {
    "sigma_data": (1.0,),
    "prediction_type": ("v_prediction",),
    "solver_order": (1, 2),
  },
  "DEISMultistepScheduler": {"solver_type": ("logrho",)},
  "DPMSolverSinglestepScheduler": {"algorithm_type": ("dpmsolver++", "dpmsolver")},
  "EDMDPMSolverMultistepScheduler": {"prediction_type": ("epsilon", "v_prediction")},
  "EDMEulerScheduler": {"prediction_type": ("epsilon", "v_prediction")},
  "IPNDMScheduler": {"trained_betas": (None,)},
  "UniPCMultistepScheduler": {"solver_type": ("bh1", "bh2")},
}
"""Allowed values of keys in these classes."""
TAKEN_FOR = {
  "DEISMultistepScheduler": ("logrho", ("midpoint", "heun", "bh1", "bh2")),
  "UniPCMultistepScheduler": ("bh2", ("midpoint", "heun", "logrho")),
}
"""By class, the solver_type that they substitute for those of other classes; "midpoint" in all other classes."""
NOT_READ = {
  "DDIMInverseScheduler": "it maps images to noise; use editing.ddim_invert on the grid of a DDIMScheduler",
  "DPMSolverMultistepInverseScheduler": "a multistep method has no exact inverse; use editing.ddim_invert, or"
  " editing.invert with a one-step method, to map images to noise",
  "UnCLIPScheduler": "its schedule and steps have other names here; use schedules.squared_cosine and samplers.DDPM",
}
"""Classes of theirs that are known but not read: why not, and what to use instead."""
NUMBERS = {
  "[0, inf)": ("steps_offset",),
  "[1, inf)": ("num_train_timesteps", "original_inference_steps"),
  "(0, 1)": ("beta_start",),
  "(0, 1]": ("beta_end",),
  "[0, 1]": ("dynamic_thresholding_ratio",),
  "(0, inf)": (
    *("sigma_min", "sigma_max", "sigma_data", "rho", "shift", "flow_shift"),
    *("clip_sample_range", "sample_max_value", "timestep_scaling"),
  ),
}
"""Intervals in which numbers must lie; a number may be None if that is its default in the class."""


@dataclasses.dataclass(frozen=True)
class Published:
  """A published scheduler configuration in our terms.

  `grid(num_steps)` returns the noise levels, [num_steps + 1] that end in zero (fewer for single-step solvers, where
  num_steps counts network calls). The network's time is `time_scale` times the schedule's. `threshold` clips a
  denoiser's x0 as configured. diffusers stops at `final_sigma`. `spec` has the sampler's name and options,
  `config` is the configuration itself. Sampling starts at x = `start_std(sigma)` * noise, with the variance of noise
  alone or of noise and data, the latter being 1.
  """

  schedule: Schedule
  prediction: denoisers.Prediction
  sampler: Sampler
  grid: Callable[[int], Array]
  time_scale: float
  threshold: Callable[[Denoiser], Denoiser]
  final_sigma: float
  spec: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
  config: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
  from_noise_alone: bool = True

  def start_std(self, sigma: Array) -> Array:
    """The standard deviation of x at the first level."""
    return sigma if self.from_noise_alone else jnp.sqrt(1 + jnp.square(sigma))

  def denoiser(self, network: Network) -> Denoiser:
    """The denoiser that the configuration makes of a network with bound parameters."""
    return self.threshold(self.unclipped(network))

  def unclipped(self, network: Network) -> denoisers.NetworkDenoiser:
    """The same without `threshold`, which belongs around guidance."""
    return denoisers.NetworkDenoiser(network, self.prediction, self.schedule, self.time_scale)


def from_diffusers(config: Config) -> Published:
  """See `diffjax.schedules.from_diffusers`."""
  given = config
  scheduler, config = _read(given)
  schedule = scheduler.schedule(config) if scheduler.schedule else _schedule(config)
  spec = scheduler.sampler(config, schedule)
  if spec["name"] not in from_config.SAMPLERS:
    raise ValueError(f"{config['_class_name']} needs the sampler {spec['name']!r}, which this version does not have.")

  def grid(num_steps: int) -> Array:
    grids.check_num_steps(num_steps)
    return grids.end_in_zero(scheduler.levels(config, schedule, num_steps))

  return Published(
    schedule=schedule,
    prediction=scheduler.prediction(config) if scheduler.prediction else _prediction(config),
    sampler=construction.construct(from_config.SAMPLERS, "sampler", spec, scaling=schedule.scaling, schedule=schedule),
    grid=grid,
    time_scale=float(config["num_train_timesteps"]) if levels.is_flow(config) else scheduler.time_scale,
    threshold=_threshold(config),
    final_sigma=_final_sigma(config, schedule),
    spec=spec,
    config=dict(given),
    from_noise_alone=levels.is_flow(config)
    or (config["_class_name"] in FROM_NOISE_ALONE and config.get("timestep_spacing") != "leading"),
  )


def _read(given: Config) -> tuple[Scheduler, Config]:
  """Their class, and the configuration with its defaults. Keys of other classes have no effect, as in diffusers."""
  if not isinstance(given, Mapping):
    raise ValueError(
      f"the configuration is {given!r:.40}, but must be a dict; read scheduler_config.json with json.load."
    )
  if "_class_name" not in given:
    raise ValueError("the configuration has no key '_class_name'; pass all of scheduler_config.json.")
  name = given["_class_name"]
  if name in NOT_READ:
    raise ValueError(f"{name} is not read, as {NOT_READ[name]}.")
  scheduler = construction.lookup(SCHEDULERS, "scheduler", name)
  known = set().union(*(other.defaults for other in SCHEDULERS.values()))
  for key in given:
    if not key.startswith("_"):
      construction.lookup(dict.fromkeys(known), "key of a scheduler", key)
  config = {key: given.get(key, default) for key, default in scheduler.defaults.items()} | {"_class_name": name}
  if config.get("use_dynamic_shifting"):
    raise ValueError(
      f"use_dynamic_shifting of {name} is not read, since the shift depends on the image's size; take"
      " schedules.Shifted(schedules.RectifiedFlow(), exp(mu)), mu being the pipeline's, and a grid on that."
    )
  own, others = TAKEN_FOR.get(name, ("midpoint", ("logrho", "bh1", "bh2")))
  if config.get("solver_type") in others:
    config["solver_type"] = own
  for key, choices in ({"solver_type": ("midpoint",)} | CHOICES | CHOICES_OF.get(name, {})).items():
    if key in scheduler.defaults and config[key] not in choices:
      allowed = ", ".join(repr(choice) for choice in choices)
      raise ValueError(f"{key} of {name} is {config[key]!r}, but can only be {allowed} here; change it.")
  for interval, keys in NUMBERS.items():
    for key in keys:
      value = config.get(key)
      if value is None and scheduler.defaults.get(key) is None:
        continue
      if not isinstance(value, numbers.Real):
        raise ValueError(f"{key} of {name} is {value!r}, but must be a number in {interval}; correct it.")
      checks.check_in(interval, **{f"{key} of {name}": value})
  _check_consistency(config)
  return scheduler, config


def _check_consistency(config: Config) -> None:
  asked = [key for key in (*levels.SPACINGS, "use_lu_lambdas", "use_flow_sigmas") if config.get(key)]
  if len(asked) > 1:
    raise ValueError(f"{' and '.join(asked)} each set the noise levels; set only one of them.")
  if config.get("rescale_betas_zero_snr") and config["prediction_type"] == "epsilon":
    raise ValueError(
      "rescale_betas_zero_snr leaves pure noise at the last step, where prediction_type 'epsilon' says nothing about "
      "the data; set prediction_type to 'v_prediction' or 'sample', or rescale_betas_zero_snr to false."
    )
  if (config.get("prediction_type") == "flow_prediction") != bool(config.get("use_flow_sigmas")):
    raise ValueError("prediction_type 'flow_prediction' and use_flow_sigmas belong together; set both or neither.")
  for low, high in (("beta_start", "beta_end"), ("sigma_min", "sigma_max")):
    if config.get(low) and config.get(high) and not config[low] <= config[high]:
      raise ValueError(f"{low} is {config[low]}, above {high}, which is {config[high]}; swap the two.")
  betas, total = config.get("trained_betas"), config["num_train_timesteps"]
  if betas is not None and len(betas) != total:
    raise ValueError(f"trained_betas has {len(betas)} entries, but num_train_timesteps is {total}; make them agree.")


def _schedule(config: Config) -> Schedule:
  if levels.is_flow(config):
    return schedules.RectifiedFlow()
  if config["trained_betas"] is not None:
    schedule = schedules.from_betas(config["trained_betas"])
  else:
    schedule = BETAS[config["beta_schedule"]](config["num_train_timesteps"], config["beta_start"], config["beta_end"])
  if not config.get("rescale_betas_zero_snr"):
    return schedule
  schedule = schedules.zero_terminal_snr(schedule)
  if config["_class_name"] in WITH_INFINITY:
    return schedule
  alphas_cumprod = 1 / (1 + np.exp(-np.asarray(schedule.log_snrs, np.float64)))
  # theirs replaces zero by sigma = 4096, even if the step before has more noise; here sigma must descend
  alphas_cumprod[-1] = min(2.0**-24, alphas_cumprod[-2] / 2)
  return schedules.from_alphas_cumprod(alphas_cumprod)


def _prediction(config: Config) -> denoisers.Prediction:
  return PREDICTIONS[config.get("prediction_type", "flow_prediction")]()


def _threshold(config: Config) -> Callable[[Denoiser], Denoiser]:
  if config.get("thresholding"):
    quantile, cap = config["dynamic_thresholding_ratio"], config["sample_max_value"]
    return lambda denoiser: guidance.DynamicThreshold(denoiser, quantile, cap=cap)
  if config.get("clip_denoised"):
    return guidance.StaticThreshold
  if config.get("clip_sample"):
    return lambda denoiser: guidance.StaticThreshold(denoiser, config["clip_sample_range"])
  return lambda denoiser: denoiser


def _final_sigma(config: Config, schedule: Schedule) -> float:
  asked = not config.get("set_alpha_to_one", True) or config.get("final_sigmas_type", "zero") == "sigma_min"
  leaves_noise = asked or (config["_class_name"] in ALWAYS_NOISY and not levels.is_flow(config))
  return float(schedule.sigma(schedule.t_min)) if leaves_noise else 0.0
