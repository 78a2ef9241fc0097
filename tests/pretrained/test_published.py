"""Published scheduler configurations, held to diffusers' own trajectories in float64.

Their arithmetic is float32 in places; here it is float64 throughout, so that nothing but the method is compared.
"""

import importlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published_configs import LATENT, SDXL, STABLE_DIFFUSION_15

from diffjax import grids, sample, samplers, schedules

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

START = np.random.default_rng(0).normal(size=(2, 3, 3, 2))
NOISE = np.random.default_rng(1).normal(size=(60, *START.shape))


class Double:
  """torch or numpy whose float32 is float64."""

  def __init__(self, module):
    self._module = module

  def __getattr__(self, name):
    return getattr(self._module, "float64" if name == "float32" else name)


def network(x, t, xp):
  """Any smooth function will do; times up to 1000."""
  return 0.8 * xp.tanh(x) + 0.1 * xp.cos(3 * x + 0.002 * t)


EXPLODING = ("Euler", "Heun", "LMS", "KDPM2", "EDM", "CosineDPM", "CMStochastic")
"""Their classes that step x0 + sigma * noise, as we do; the others step alpha times it."""


def in_double(name, monkeypatch):
  """Their class of this name; in its module float32 is float64, and NOISE is what it draws."""
  if name.startswith(("CosineDPM", "DPMSolverSDE")):  # they import it for a noise that is not used here
    monkeypatch.setitem(sys.modules, "torchsde", types.ModuleType("torchsde"))
    importlib.import_module("diffusers.schedulers.scheduling_dpmsolver_sde")
  file = {"CosineDPMSolverMultistepScheduler": "cosine_dpmsolver_multistep", "DPMSolverSDEScheduler": "dpmsolver_sde"}
  there = f"diffusers.schedulers.scheduling_{file[name]}" if name in file else getattr(diffusers, name).__module__
  module = importlib.import_module(there)
  monkeypatch.setattr(module, "torch", Double(torch))
  monkeypatch.setattr(module, "np", Double(np), raising=False)
  draws = iter(NOISE)
  draw = lambda *args, **kwargs: torch.tensor(next(draws))
  monkeypatch.setattr(module, "randn_tensor", draw, raising=False)
  monkeypatch.setattr(module, "BrownianTreeNoiseSampler", lambda *args, **kwargs: draw, raising=False)
  return getattr(module, name)


def is_flow(config):
  return "Flow" in config["_class_name"] or config.get("use_flow_sigmas", False)


def theirs(config, num_steps, published, monkeypatch, last=True, **options):
  """Their loop over network and step, with NOISE as theirs; the network's times follow from their noise levels.

  Without `last` up to the last level above zero.
  """
  name = config["_class_name"]
  scheduler = in_double(name, monkeypatch).from_config(config)
  scheduler.set_timesteps(num_steps)
  levels = np.asarray(published.grid(num_steps))[:-1]
  if is_flow(config):
    scheduler.sigmas = scheduler.sigmas.clamp(max=levels[0] / (1 + levels[0]))  # where ours starts, just short of 1
  x = torch.tensor(START) * (levels[0] if name.startswith(EXPLODING) else 1.0)
  if hasattr(scheduler, "sigmas"):
    sigmas = scheduler.sigmas.numpy()[: len(scheduler.timesteps)]
    sigmas = sigmas / (1 - sigmas) if is_flow(config) else sigmas
    visited = np.array(list(dict.fromkeys(sigmas.tolist())))
    np.testing.assert_allclose(
      visited[:: scheduler.config.get("solver_order") if "Single" in name else 1], levels, 1e-9
    )
    if "KDPM2" in name:  # every second call is in the middle of a step
      middle = np.roll(scheduler.sigmas_interpol.numpy(), "Ancestral" in name)[: len(sigmas)]
      sigmas = np.where(np.arange(len(sigmas)) % 2, middle, sigmas)
    times = published.prediction.in_noise(jnp.asarray(sigmas), published.schedule)[1]
    times = published.time_scale * np.asarray(times)
  else:
    times = scheduler.timesteps.numpy()
  for i, t in enumerate(scheduler.timesteps[: None if last else -1]):
    seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
    x = scheduler.step(torch.tensor(network(seen.numpy(), times[i], np)), t, x, **options).prev_sample
  return x.numpy()


def ours(config, num_steps, published, last=True):
  """Our trajectory from the same start; where theirs stops at some noise, it is taken there by one level more.

  Without `last` up to the last level above zero.
  """
  sigmas, scaling = published.grid(num_steps), published.schedule.scaling
  final = jnp.asarray(published.final_sigma)
  if final > 0 and last:
    sigmas = grids.end_in_zero(jnp.append(sigmas[:-1], final))
  denoiser = published.denoiser(lambda x, t, cond, key: network(x, t.reshape(-1, 1, 1, 1), jnp))
  exploding = config["_class_name"].startswith(EXPLODING)
  x = jnp.asarray(START) * (sigmas[0] if exploding else 1 / scaling(sigmas[0]))
  keys, noise = jax.random.split(jax.random.key(0), len(START)), jnp.asarray(NOISE[: len(sigmas) - 2])

  def step(state, levels_noise):
    *levels, noise = levels_noise
    fields = {"noise": lambda keys, shape: noise} if hasattr(published.sampler, "noise") else {}
    return published.sampler.replace(**fields).step(denoiser, state[0], *levels, state[1], keys), None

  start = x, published.sampler.init(x)
  walk = jax.jit(lambda: jax.lax.scan(step, start, (sigmas[:-2], sigmas[1:-1], noise))[0][0])
  if final > 0 or not last:
    return np.asarray(walk() * (1.0 if exploding else scaling(sigmas[-2])))
  return np.asarray(denoiser(walk(), sigmas[-2]))


CONFIGS = {
  "Stable Diffusion 1.5": STABLE_DIFFUSION_15,
  "SDXL": SDXL,
  "SDXL karras": SDXL | {"use_karras_sigmas": True},
  "ddim": LATENT | {"_class_name": "DDIMScheduler", "clip_sample": False},
  "ddim, Stable Diffusion's": STABLE_DIFFUSION_15 | {"_class_name": "DDIMScheduler"},
  "ddim cosine trailing": {"_class_name": "DDIMScheduler", "clip_sample": False, "timestep_spacing": "trailing"}
  | {"beta_schedule": "squaredcos_cap_v2"},
  "ddpm": {"_class_name": "DDPMScheduler", "clip_sample_range": 2.0},
  "ddpm large": {"_class_name": "DDPMScheduler", "variance_type": "fixed_large", "beta_schedule": "sigmoid"},
  "ddpm dynamic": {"_class_name": "DDPMScheduler", "thresholding": True, "sample_max_value": 1.5},
  "euler": LATENT | {"_class_name": "EulerDiscreteScheduler"},
  "euler exponential": LATENT | {"_class_name": "EulerDiscreteScheduler", "use_exponential_sigmas": True},
  "euler beta": LATENT | {"_class_name": "EulerDiscreteScheduler", "use_beta_sigmas": True},
  "euler ends": LATENT
  | {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 9.0},
  "euler ancestral": LATENT | {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"},
  "heun": LATENT | {"_class_name": "HeunDiscreteScheduler"},
  "heun karras clipped": LATENT
  | {"_class_name": "HeunDiscreteScheduler", "use_karras_sigmas": True, "clip_sample": True},
  "dpm 1": LATENT | {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 1},
  "dpm 2": LATENT | {"_class_name": "DPMSolverMultistepScheduler"},
  "dpm 2 leading": LATENT
  | {"_class_name": "DPMSolverMultistepScheduler", "timestep_spacing": "leading", "steps_offset": 1},
  "dpm 2 karras": LATENT | {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True},
  "dpm 2 lu": LATENT | {"_class_name": "DPMSolverMultistepScheduler", "use_lu_lambdas": True},
  "dpm 2 cosine": {"_class_name": "DPMSolverMultistepScheduler", "beta_schedule": "squaredcos_cap_v2"}
  | {"lambda_min_clipped": -5.1},
  "dpm 2 trained": {"_class_name": "DPMSolverMultistepScheduler", "num_train_timesteps": 200}
  | {"trained_betas": list(np.geomspace(1e-4, 0.1, 200))},
  "dpm sde 1": LATENT
  | {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 1, "algorithm_type": "sde-dpmsolver++"},
  "dpm sde 2": LATENT | {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"},
  "single step 1": LATENT | {"_class_name": "DPMSolverSinglestepScheduler", "solver_order": 1},
  # with equal steps in log sigma the middle of a step is a level, as in theirs
  "single step 2": LATENT | {"_class_name": "DPMSolverSinglestepScheduler", "use_exponential_sigmas": True},
  "lcm": {"_class_name": "LCMScheduler", "timestep_scaling": 1e12},  # else their boundary condition moves x0 by 1e-5
}
EDMS = {
  "edm euler": {"_class_name": "EDMEulerScheduler"},
  "edm euler exponential": {"_class_name": "EDMEulerScheduler", "sigma_schedule": "exponential", "sigma_max": 20.0},
  "edm dpm 1": {"_class_name": "EDMDPMSolverMultistepScheduler", "solver_order": 1},
  "edm dpm 2": {"_class_name": "EDMDPMSolverMultistepScheduler"},
  "edm dpm sde 2": {"_class_name": "EDMDPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"},
  "edm dpm dynamic": {"_class_name": "EDMDPMSolverMultistepScheduler", "thresholding": True},
}
OTHERS = {
  **{name: config | {"prediction_type": "epsilon"} for name, config in EDMS.items()},
  **{f"{name}, v": config | {"prediction_type": "v_prediction", "sigma_data": 1.0} for name, config in EDMS.items()},
  "cosine dpm 1": {"_class_name": "CosineDPMSolverMultistepScheduler", "solver_order": 1},
  "cosine dpm 2": {"_class_name": "CosineDPMSolverMultistepScheduler"},
  "cm": {"_class_name": "CMStochasticIterativeScheduler", "num_train_timesteps": 60},
  **{
    f"{name} {shift}": {"_class_name": f"FlowMatch{name}Scheduler", "shift": shift}
    for name in ("EulerDiscrete", "HeunDiscrete", "LCM")
    for shift in (1.0, 3.0)
  },
}
"""Classes that know one kind of network, or those of EDM."""


@pytest.fixture(autouse=True)
def double_by_default():
  before = torch.get_default_dtype()
  torch.set_default_dtype(torch.float64)
  yield
  torch.set_default_dtype(before)


FULL = {"lower_order_final": False}
FLOW = FULL | {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}
KARRAS = FULL | {"use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 9.0}
ENDS = {
  "deis": LATENT | FULL | {"_class_name": "DEISMultistepScheduler"},
  "deis 3": LATENT | FULL | {"_class_name": "DEISMultistepScheduler", "solver_order": 3},
  "unipc": LATENT | FULL | {"_class_name": "UniPCMultistepScheduler"},
  "unipc 3 bh1": LATENT
  | FULL
  | {"_class_name": "UniPCMultistepScheduler", "final_sigmas_type": "sigma_min"}
  | {"solver_order": 3, "solver_type": "bh1"},
  "lms": LATENT | {"_class_name": "LMSDiscreteScheduler"},
  "sa": LATENT | FULL | {"_class_name": "SASolverScheduler"},
  "sa 3": LATENT | FULL | {"_class_name": "SASolverScheduler", "predictor_order": 3, "corrector_order": 4},
  "tcd": {"_class_name": "TCDScheduler"},
  "dpm 2 flow": FLOW | {"_class_name": "DPMSolverMultistepScheduler"},
  "unipc flow": FLOW | {"_class_name": "UniPCMultistepScheduler"},
  "deis flow": FLOW | {"_class_name": "DEISMultistepScheduler"},
  "sa flow": FLOW | {"_class_name": "SASolverScheduler"},
  "unipc flow, not shifted": FLOW | {"_class_name": "UniPCMultistepScheduler", "flow_shift": 1.0},
  "sa ends": LATENT | KARRAS | {"_class_name": "SASolverScheduler"},
  "deis ends": LATENT | KARRAS | {"_class_name": "DEISMultistepScheduler"},
  "dpm 2 ends": LATENT | KARRAS | {"_class_name": "DPMSolverMultistepScheduler"},
  "lms own ends": LATENT | KARRAS | {"_class_name": "LMSDiscreteScheduler"},
}
"""Those compared up to the last level above zero, whence theirs goes on otherwise: by extrapolation, or not to zero."""
WHOLE = {
  "kdpm2": LATENT | {"_class_name": "KDPM2DiscreteScheduler"},
  "kdpm2 ends": LATENT | KARRAS | {"_class_name": "KDPM2DiscreteScheduler"},
  "kdpm2 ancestral": LATENT | {"_class_name": "KDPM2AncestralDiscreteScheduler"},
  "ddim parallel": LATENT | {"_class_name": "DDIMParallelScheduler", "clip_sample": False},
  "ddpm parallel": LATENT | {"_class_name": "DDPMParallelScheduler"},
  "single step flow": FLOW | {"_class_name": "DPMSolverSinglestepScheduler", "solver_order": 1},
  "single step ends": LATENT
  | {"_class_name": "DPMSolverSinglestepScheduler", "solver_order": 1, "use_karras_sigmas": True}
  | {"sigma_min": 0.1, "sigma_max": 9.0},
}


@pytest.mark.parametrize(
  "name",
  [pytest.param(name, marks=[] if name in ("unipc flow", "sa flow") else pytest.mark.slow) for name in ENDS | WHOLE],
)
def test_trajectories_of_what_else_there_is_agree(name, monkeypatch, x64):
  config, last = (ENDS | WHOLE)[name], name in WHOLE
  published = schedules.from_diffusers(config)
  drawn = ours(config, 10, published, last)
  np.testing.assert_allclose(drawn, theirs(config, 10, published, monkeypatch, last), rtol=1e-9, atol=1e-9)


def test_third_order_but_for_their_second_step(monkeypatch, x64):
  """Theirs takes it by its solver_type; "heun" integrates the line through both x0, as ours does."""
  config = LATENT | FULL | {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}
  published = schedules.from_diffusers(config)
  drawn = ours(config, 10, published, last=False)
  by_integral = theirs(config | {"solver_type": "heun"}, 10, published, monkeypatch, last=False)
  np.testing.assert_allclose(drawn, by_integral, rtol=1e-9, atol=1e-9)
  assert 1e-6 < np.abs(drawn - theirs(config, 10, published, monkeypatch, last=False)).max() < 0.05


KINDS = ("epsilon", "v_prediction", "sample")


def skip_where_missing(config):
  try:
    return schedules.from_diffusers(config)
  except ValueError as error:
    if "needs the sampler" not in str(error):
      raise
    pytest.skip(str(error))


@pytest.mark.parametrize(
  ("kind", "num_steps"),
  [("epsilon", 10), *(pytest.param(kind, num, marks=pytest.mark.slow) for kind in KINDS for num in (10, 50))],
)
@pytest.mark.parametrize("name", CONFIGS)
def test_trajectories_agree(name, kind, num_steps, monkeypatch, x64):
  if kind == "sample" and CONFIGS[name]["_class_name"] in ("PNDMScheduler", "EulerAncestralDiscreteScheduler"):
    pytest.skip("they have none for models that predict x0")
  if kind == "v_prediction" and CONFIGS[name]["_class_name"] == "PNDMScheduler":
    pytest.skip("theirs combines past v, whose scale changes from step to step, where the paper (eq. 12) combines eps")
  num_steps += num_steps % 2 == 0 and "single step 2" == name  # the number that ends on a whole step
  config = CONFIGS[name] | {"prediction_type": kind}
  published = skip_where_missing(config)
  drawn, expected = ours(config, num_steps, published), theirs(config, num_steps, published, monkeypatch)
  np.testing.assert_allclose(drawn, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("config", [{}, {"shift": 3.0}], ids=["plain", "shift 3"])
@pytest.mark.parametrize("num_steps", [10, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
def test_flow_grids_agree(name, num_steps, config, monkeypatch, x64):
  """All levels but the first, which is infinite in theirs."""
  published = schedules.from_diffusers(config | {"_class_name": name})
  module = sys.modules[getattr(diffusers, name).__module__]
  monkeypatch.setattr(module, "torch", Double(torch))
  monkeypatch.setattr(module, "np", Double(np))
  scheduler = getattr(diffusers, name)(**config)
  scheduler.set_timesteps(num_steps)
  t = np.array(list(dict.fromkeys(scheduler.sigmas.numpy()[1:-1].tolist())))
  np.testing.assert_allclose(published.grid(num_steps)[1:-1], t / (1 - t), rtol=1e-9)
  assert published.grid(num_steps)[0] == schedules.MAX_SIGMA


@pytest.mark.parametrize(
  ("name", "num_steps"),
  [
    ("edm dpm 2, v", 10),
    ("cm", 10),
    *(pytest.param(name, num, marks=pytest.mark.slow) for name in OTHERS for num in (10, 50)),
  ],
)
def test_trajectories_of_other_classes_agree(name, num_steps, monkeypatch, x64):
  config = OTHERS[name]
  published = schedules.from_diffusers(config)
  drawn, expected = ours(config, num_steps, published), theirs(config, num_steps, published, monkeypatch)
  np.testing.assert_allclose(drawn, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("num_steps", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_ipndm_but_for_the_first_level(num_steps, monkeypatch, x64):
  """Theirs is infinite, and x0 there taken for zero; with ours in its place the trajectories agree."""
  published = schedules.from_diffusers({"_class_name": "IPNDMScheduler"})
  scheduler = in_double("IPNDMScheduler", monkeypatch)()
  scheduler.set_timesteps(num_steps)
  first = scheduler.step(torch.tensor(START - 0.5), scheduler.timesteps[0], torch.tensor(START)).prev_sample
  np.testing.assert_allclose(first, scheduler.betas[1] * START, rtol=1e-9)  # sigma_t times the noise, and no x0
  sigmas, scaling = published.grid(num_steps), published.schedule.scaling
  np.testing.assert_allclose(scheduler.betas[1:], (sigmas * scaling(sigmas))[1:], rtol=1e-9, atol=1e-12)
  np.testing.assert_allclose(scheduler.timesteps[1:], published.schedule.t(sigmas[1:-1]), rtol=1e-9)

  scheduler.set_timesteps(num_steps)
  scheduler.betas[0], scheduler.alphas[0] = (float(a) for a in (sigmas[0] * scaling(sigmas[0]), scaling(sigmas[0])))
  times, x = np.asarray(published.schedule.t(sigmas[:-1])), torch.tensor(START)
  for i, t in enumerate(scheduler.timesteps[:-1]):
    x = scheduler.step(torch.tensor(network(x.numpy(), times[i], np)), t, x).prev_sample
  denoiser = published.denoiser(lambda x, t, cond, key: network(x, t.reshape(-1, 1, 1, 1), jnp))
  path = sample(
    denoiser, published.sampler, jnp.asarray(START) / scaling(sigmas[0]), sigmas, key=jax.random.key(0), trajectory=True
  )[1]
  np.testing.assert_allclose(path[-2] * scaling(sigmas[-2]), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("num_steps", [10, 50])
@pytest.mark.parametrize("spacing", [{}, {"use_karras_sigmas": True}, {"timestep_spacing": "trailing"}])
def test_levels_of_dpm_sde_agree(spacing, num_steps, monkeypatch, x64):
  """Its trajectories, with ours for their Brownian motion, are in `samplers/test_diffusers_stochastic.py`."""
  config = LATENT | spacing | {"_class_name": "DPMSolverSDEScheduler"}
  published = schedules.from_diffusers(config)
  scheduler = in_double("DPMSolverSDEScheduler", monkeypatch).from_config(config)
  scheduler.set_timesteps(num_steps)
  np.testing.assert_allclose(
    published.grid(num_steps)[:-1], scheduler.sigmas[[0, *range(1, 2 * num_steps - 2, 2)]], 1e-9
  )
  assert published.sampler == samplers.DPMppSDE()


def test_a_single_steps_middle_is_the_papers(monkeypatch, x64):
  """On a grid that is not even in log sigma theirs takes the level between, which costs accuracy but not order."""
  config = LATENT | {"_class_name": "DPMSolverSinglestepScheduler"}
  published = schedules.from_diffusers(config)
  assert published.grid(11).shape == (7,) and published.sampler == samplers.DPMppS(2)
  drawn, expected = ours(config, 11, published), theirs(config, 11, published, monkeypatch)
  assert 1e-4 < np.abs(drawn - expected).max() < 0.5
  third = schedules.from_diffusers(config | {"solver_order": 3, "algorithm_type": "dpmsolver"})
  assert third.grid(10).shape == (5,) and third.sampler == samplers.DPMSolver(3)


@pytest.mark.parametrize("name", ["DEISMultistepScheduler", "UniPCMultistepScheduler", "LMSDiscreteScheduler"])
@pytest.mark.parametrize("num_steps", [10, 50])
def test_levels_of_other_classes_agree(name, num_steps):
  """Theirs in float32, with the level at which they stop."""
  scheduler = getattr(diffusers, name)(**LATENT)
  scheduler.set_timesteps(num_steps)
  published = skip_where_missing(LATENT | {"_class_name": name})
  expected = scheduler.sigmas.numpy()
  np.testing.assert_allclose(published.grid(num_steps)[:-1], expected[:-1], rtol=1e-4)
  assert published.final_sigma == pytest.approx(expected[-1], rel=1e-4)


def test_clipping_recomputes_the_noise(monkeypatch, x64):
  """Theirs does so with `use_clipped_model_output`, which is no key of a configuration."""
  config = LATENT | {"_class_name": "DDIMScheduler"}
  published = schedules.from_diffusers(config)
  drawn = ours(config, 10, published)
  by_ours = theirs(config, 10, published, monkeypatch, use_clipped_model_output=True)
  np.testing.assert_allclose(drawn, by_ours, rtol=1e-9, atol=1e-9)
  assert np.abs(drawn - theirs(config, 10, published, monkeypatch)).max() > 1e-3


def test_orders_are_kept_to_the_end(monkeypatch, x64):
  """Theirs lowers that of the last steps but one with `lower_order_final`, if they are fewer than 15."""
  config = LATENT | {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}
  published = schedules.from_diffusers(config)
  drawn = lambda final: theirs(
    config | {"solver_type": "heun", "lower_order_final": final}, 10, published, monkeypatch, last=False
  )
  np.testing.assert_allclose(ours(config, 10, published, last=False), drawn(False), rtol=1e-9, atol=1e-9)
  assert np.abs(drawn(True) - drawn(False)).max() > 1e-6
