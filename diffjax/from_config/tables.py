"""The names that configs give to schedules, grids, samplers and the other parts of a diffusion model."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from diffjax import denoisers, grids, guidance, losses, noise_levels, samplers, schedules
from diffjax.schedules import Schedule
from diffjax.typing import Array, Denoiser, Sampler

SCHEDULES: dict[str, Callable[..., Schedule]] = {
  "linear": schedules.linear,
  "scaled_linear": schedules.scaled_linear,
  "squared_cosine": schedules.squared_cosine,
  "cosine": schedules.Cosine,
  "sigmoid": schedules.Sigmoid,
  "sigmoid_betas": schedules.sigmoid_betas,
  "vp": schedules.VP,
  "ve": schedules.VE,
  "edm": schedules.SigmaAsTime,
  "rectified_flow": schedules.RectifiedFlow,
}
GRIDS: dict[str, Callable[..., Array]] = {
  "karras": grids.karras,
  "exponential": grids.exponential,
  "polyexponential": grids.polyexponential,
  "uniform_time": grids.uniform_time,
  "uniform_log_snr": grids.uniform_log_snr,
  "beta_quantiles": grids.beta_quantiles,
  "align_your_steps": grids.align_your_steps,
}
SAMPLERS: dict[str, Callable[..., Sampler]] = {name: method.make for name, method in samplers.METHODS.items()}
THRESHOLDS: dict[str, Callable[..., Denoiser]] = {
  "none": lambda denoiser: denoiser,
  "static": guidance.StaticThreshold,
  "dynamic": guidance.DynamicThreshold,
}
PREDICTIONS: dict[str, Callable[..., denoisers.Prediction]] = {
  "eps": denoisers.Eps,
  "x0": denoisers.X0,
  "v": denoisers.V,
  "flow": denoisers.Flow,
  "score": denoisers.Score,
  "edm": denoisers.EDM,
  "consistency": denoisers.Consistency,
}
LOSSES: dict[str, Callable[..., Any]] = {
  "simple": losses.Simple,
  "snr": losses.SNR,
  "min_snr": losses.MinSNR,
  "edm": losses.Preconditioned,
  "p2": losses.P2,
  "sigmoid": losses.Sigmoid,
}
NOISE_LEVELS: dict[str, Callable[..., Any]] = {
  "uniform_time": noise_levels.UniformTime,
  "log_normal": noise_levels.LogNormal,
  "logit_normal": noise_levels.LogitNormal,
}
DTYPES = {name: jnp.dtype(name) for name in ("float32", "bfloat16", "float16")}
