"""The same trajectories as diffusers' stochastic and few-step schedulers, with the same network and the same noise.

To 1e-10 where they compute in float64 once their tables are; to 1e-5 of the largest value where their steps cast to
float32. Where theirs differ, the test says how.
"""

import importlib
import itertools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import denoisers, grids, samplers, schedules

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

SCHEDULE = schedules.scaled_linear()
BETAS = dict(num_train_timesteps=1000, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
RNG = np.random.default_rng(0)
START = RNG.normal(size=(3, 4, 4, 2))
NOISE = RNG.normal(size=(120, *START.shape))
PREDICTIONS = {"epsilon": denoisers.Eps(), "v_prediction": denoisers.V(), "sample": denoisers.X0()}
DOUBLE, SINGLE = 1e-10, 1e-5

by_steps = pytest.mark.parametrize("num_steps", [10, 50])
by_kind = pytest.mark.parametrize("kind", PREDICTIONS)


def network(np_or_jnp, x, t):
  """Any smooth function of both will do as a network."""
  return 0.8 * np_or_jnp.tanh(x) + 0.1 * np_or_jnp.cos(3 * x + 0.002 * t)


@pytest.fixture
def injected(monkeypatch):
  """injected("lcm"): the random numbers of that scheduler are NOISE, in order."""

  def injected(name):
    draws = iter(NOISE)
    module = importlib.import_module(f"diffusers.schedulers.scheduling_{name}")
    monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: torch.tensor(next(draws)))
    return module

  return injected


def trailing(num_steps):
  return np.array(grids.uniform_time(num_steps, SCHEDULE))


def known(kind):
  """What a scheduler that knows no x0 networks is told instead; `theirs` then hands it the noise."""
  return "epsilon" if kind == "sample" else kind


def theirs(scheduler, start, as_noise=False):
  """x after each of their steps; `as_noise`: the network predicts x0, and x is x0 + sigma * noise."""
  x, path = torch.tensor(start), []
  for t in scheduler.timesteps:
    scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
    output = network(np, scaled.numpy(), float(t))
    if as_noise:
      sigma = float(SCHEDULE.sigma(jnp.asarray(float(t))))
      output = (scaled.numpy() * np.sqrt(1 + sigma**2) - output) / sigma
    output = torch.tensor(output)
    x = scheduler.step(output, t, x).prev_sample.double()
    path.append(x.numpy())
  return path


def ours(sampler, sigmas, prediction, schedule=SCHEDULE, time_scale=1.0, start=None):
  """x after each of our steps; the k-th number drawn is NOISE[k]. Jitted, so that each draw is told by its step."""
  denoise = denoisers.NetworkDenoiser(
    lambda x, t, cond, key: network(jnp, x, t.reshape(-1, 1, 1, 1)), prediction, schedule, time_scale
  )

  @jax.jit
  def step(x, sigma, sigma_next, carry, noises):
    draws = iter(noises)
    keys = jax.random.split(jax.random.key(0), len(START))
    noisy = sampler.replace(noise=lambda keys, shape: next(draws))
    return noisy.step(denoise, x, sigma, sigma_next, carry, keys)

  x = jnp.asarray(START / schedule.scaling(sigmas[0]) if start is None else start)
  carry, path = sampler.init(x), []
  per_step = 2 if isinstance(sampler, samplers.DPMppSDE) else 1
  for i, (sigma, sigma_next) in enumerate(itertools.pairwise(sigmas)):
    if sigma_next > 0:
      x, carry = step(x, sigma, sigma_next, carry, jnp.asarray(NOISE[i * per_step : (i + 1) * per_step]))
    else:
      x = denoise(x, jnp.asarray(sigma))
    path.append(np.asarray(x))
  return path


def assert_agree(ours, theirs, tolerance):
  assert len(ours) == len(theirs)
  for x, y in zip(ours, theirs):
    np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * np.abs(y).max())


def at_scale(path, sigmas, schedule=SCHEDULE):
  """Ours as their x_t = alpha * x; x0 as it is."""
  return [x * (schedule.scaling(jnp.asarray(s)) if s > 0 else 1.0) for x, s in zip(path, sigmas[1:])]


@by_steps
@by_kind
def test_dpm2_ancestral(kind, num_steps, injected, x64):
  """They keep sigma_up, sigma_down and the middle in float32."""
  injected("k_dpm_2_ancestral_discrete")
  scheduler = diffusers.KDPM2AncestralDiscreteScheduler(
    **BETAS, prediction_type=known(kind), timestep_spacing="trailing"
  )
  scheduler.set_timesteps(num_steps)
  sigmas = trailing(num_steps)
  drawn = ours(samplers.Ancestral(samplers.DPMSolver(2)), sigmas, PREDICTIONS[kind], start=START * sigmas[0])
  path = theirs(scheduler, START * sigmas[0], kind == "sample")
  assert_agree(drawn, path[1::2] + path[-1:], SINGLE)


@by_steps
@by_kind
def test_euler_ancestral(kind, num_steps, injected, x64):
  """They cast x to float32."""
  injected("euler_ancestral_discrete")
  scheduler = diffusers.EulerAncestralDiscreteScheduler(
    **BETAS, prediction_type=known(kind), timestep_spacing="trailing"
  )
  scheduler.set_timesteps(num_steps)
  sigmas = trailing(num_steps)
  drawn = ours(samplers.Euler(1.0), sigmas, PREDICTIONS[kind], start=START * sigmas[0])
  assert_agree(drawn, theirs(scheduler, START * sigmas[0], kind == "sample"), SINGLE)


@by_steps
@by_kind
def test_dpmpp_sde(kind, num_steps, monkeypatch, x64):
  """Their noise is a Brownian motion over sigma; ours, put in its place, is that of the SDE."""
  monkeypatch.setitem(sys.modules, "torchsde", types.ModuleType("torchsde"))
  module = importlib.import_module("diffusers.schedulers.scheduling_dpmsolver_sde")
  scheduler = module.DPMSolverSDEScheduler(**BETAS, prediction_type=known(kind), timestep_spacing="trailing")
  in_double(scheduler)
  scheduler.set_timesteps(num_steps)
  sigmas, draws = trailing(num_steps), iter(NOISE)
  scheduler.sigmas = torch.tensor(np.concatenate([sigmas[:1], np.repeat(sigmas[1:-1], 2), sigmas[-1:]]))
  middle = []

  def noise_sampler(sigma, sigma_to):
    noise = next(draws)
    if not middle:
      middle.append((float(sigma_to), noise))
      return torch.tensor(noise)
    # what the middle holds decays by (sigma_to / sigma_middle)^2 and is joined by fresh noise
    sigma_middle, earlier = middle.pop()
    up = lambda high, low: low * np.sqrt(1 - (low / high) ** 2)
    sigma, sigma_to = float(sigma), float(sigma_to)
    held = (sigma_to / sigma_middle) ** 2 * up(sigma, sigma_middle) * earlier + up(sigma_middle, sigma_to) * noise
    return torch.tensor(held / up(sigma, sigma_to))

  scheduler.noise_sampler = noise_sampler
  drawn = ours(samplers.DPMppSDE(), sigmas, PREDICTIONS[kind], start=START * sigmas[0])
  path = theirs(scheduler, START * sigmas[0], kind == "sample")
  # they keep times, by which x0 is turned to noise here, in float32
  assert_agree(drawn, path[1::2] + path[-1:], SINGLE if kind == "sample" else DOUBLE)


def in_double(scheduler):
  betas = torch.linspace(BETAS["beta_start"] ** 0.5, BETAS["beta_end"] ** 0.5, 1000, dtype=torch.float64) ** 2
  scheduler.alphas_cumprod = torch.cumprod(1 - betas, 0)
  return scheduler


MULTISTEP = {
  "midpoint": samplers.DPMpp2M(1.0),
  # k-diffusion's "heun" integrates the line through both x0 exactly, which is SA-Solver's predictor
  "heun": samplers.SASolver(2, 0),
}


@by_steps
@by_kind
@pytest.mark.parametrize("solver_type", MULTISTEP)
def test_dpmpp_2m_sde(solver_type, kind, num_steps, injected, x64):
  """They cast x to float32."""
  injected("dpmsolver_multistep")
  scheduler = multistep(num_steps, prediction_type=kind, solver_type=solver_type)
  sigmas = trailing(num_steps)
  drawn = at_scale(ours(MULTISTEP[solver_type], sigmas, PREDICTIONS[kind]), sigmas)
  assert_agree(drawn, theirs(scheduler, START), SINGLE)


def multistep(num_steps, **options):
  options = BETAS | dict(algorithm_type="sde-dpmsolver++", timestep_spacing="trailing") | options
  scheduler = in_double(diffusers.DPMSolverMultistepScheduler(**options))
  scheduler.set_timesteps(num_steps)
  scheduler.sigmas = torch.tensor(trailing(num_steps))
  return scheduler


def test_dpmpp_3m_sde_and_the_sign_of_theirs(injected, x64):
  """Their third-order SDE step weighs the second difference by -(phi + 1/2), which does not vanish with the step.

  1/2 - phi is the shipped weight and 1 - 2 phi the right one, so theirs is off by alpha times the second difference:
  the method is then of first order.
  """
  injected("dpmsolver_multistep")
  scheduler = multistep(10, solver_order=3, solver_type="heun", lower_order_final=False)
  sigmas = trailing(10)
  drawn = at_scale(ours(samplers.DPMpp3M(1.0, shipped=True), sigmas, denoisers.Eps()), sigmas)
  path = theirs(scheduler, START)
  assert_agree(drawn[:2], path[:2], SINGLE)
  h, h_1, h_2 = np.log(sigmas[2] / sigmas[3]), np.log(sigmas[1] / sigmas[2]), np.log(sigmas[0] / sigmas[1])
  x0s = x0s_along(path[:2], sigmas)
  slope, slope_last = (x0s[2] - x0s[1]) / h_1, (x0s[1] - x0s[0]) / h_2
  second_difference = h**2 * (slope - slope_last) / (h_1 + h_2)
  alpha = float(SCHEDULE.scaling(sigmas[3]))
  assert np.abs(alpha * second_difference).max() > 1e-3
  np.testing.assert_allclose(path[2] - drawn[2], -alpha * second_difference, rtol=0, atol=2e-5)


def x0s_along(path, sigmas):
  """x0 of an eps network at the start and after each step of a path of x_t."""
  found = []
  for x, sigma in zip([START, *path], sigmas):
    alpha, t = float(SCHEDULE.scaling(sigma)), float(SCHEDULE.t(sigma))
    found.append(x / alpha - sigma * network(np, x, t))
  return found


@by_steps
@by_kind
@pytest.mark.parametrize(("predictor", "corrector"), [(1, 1), (2, 2), (3, 3), (3, 4)])
def test_sa_solver(predictor, corrector, kind, num_steps, injected, x64):
  """Theirs ends at the first time's noise, not at zero."""
  injected("sasolver")
  scheduler, sigmas = sa_solver(num_steps, predictor, corrector, kind)
  sampler = samplers.SASolver(predictor, corrector, 0.7, shipped=True)
  assert_agree(at_scale(ours(sampler, sigmas, PREDICTIONS[kind]), sigmas), theirs(scheduler, START), DOUBLE)


def sa_solver(num_steps, predictor, corrector, kind):
  options = dict(predictor_order=predictor, corrector_order=corrector, prediction_type=kind, tau_func=lambda t: 0.7)
  scheduler = diffusers.SASolverScheduler(**BETAS, **options, timestep_spacing="trailing", lower_order_final=False)
  in_double(scheduler).set_timesteps(num_steps)
  sigmas = trailing(num_steps)
  sigmas[-1] = SCHEDULE.sigma(jnp.zeros(()))
  scheduler.sigmas = torch.tensor(sigmas)
  return scheduler, sigmas


@by_steps
@by_kind
@pytest.mark.parametrize(("timestep_scaling", "tolerance"), [(1e12, DOUBLE), (10.0, SINGLE)])
def test_lcm(timestep_scaling, tolerance, kind, num_steps, injected, x64):
  """Their boundary condition mixes x into x0: by less than 1e-5 from time 19 on, and not at all if time is scaled."""
  injected("lcm")
  scheduler = diffusers.LCMScheduler(**BETAS, prediction_type=kind, timestep_scaling=timestep_scaling)
  in_double(scheduler).set_timesteps(num_steps)
  sigmas = np.append(SCHEDULE.sigma(jnp.asarray(scheduler.timesteps.numpy(), float)), 0.0)
  drawn = at_scale(ours(samplers.Consistency(0.0), sigmas, PREDICTIONS[kind]), sigmas)
  assert_agree(drawn, theirs(scheduler, START), tolerance)


@by_steps
@by_kind
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_tcd(gamma, kind, num_steps, injected, x64, monkeypatch):
  """Their last step goes to time 0, whose noise is not zero; ours to the data."""
  injected("tcd")
  scheduler = diffusers.TCDScheduler(**BETAS, prediction_type=kind)
  in_double(scheduler).set_timesteps(num_steps)
  step = scheduler.step
  monkeypatch.setattr(scheduler, "step", lambda *args: step(*args, eta=gamma))
  sigmas = np.append(SCHEDULE.sigma(jnp.asarray(scheduler.timesteps.numpy(), float)), 0.0)
  drawn = ours(samplers.TCD(gamma, SCHEDULE), sigmas, PREDICTIONS[kind])
  path = theirs(scheduler, START)
  assert_agree(at_scale(drawn, sigmas)[:-1], path[:-1], DOUBLE)
  sigma_first = SCHEDULE.sigma(jnp.zeros(()))
  theirs_last = drawn[-1] + sigma_first / sigmas[-2] * (drawn[-2] - drawn[-1])
  assert_agree([SCHEDULE.scaling(sigma_first) * theirs_last], path[-1:], DOUBLE)


@by_steps
def test_consistency(num_steps, injected, x64):
  injected("consistency_models")
  scheduler = diffusers.CMStochasticIterativeScheduler(num_train_timesteps=60, clip_denoised=False)
  scheduler.set_timesteps(num_steps)
  sigmas = np.append(np.exp(scheduler.timesteps.numpy() / 250), 0.0)
  scheduler.sigmas = torch.tensor(np.append(sigmas[:-1], 0.002))
  prediction = denoisers.Consistency(0.5, 0.002)
  drawn = ours(samplers.Consistency(0.002), sigmas, prediction, schedules.SigmaAsTime(), 1000.0, START * sigmas[0])
  path = theirs(scheduler, START * sigmas[0])
  assert_agree(drawn, path, DOUBLE)


@by_steps
@pytest.mark.parametrize("stochastic", [False, True])
def test_flow_euler(stochastic, num_steps, injected, x64):
  """Euler on a flow's grid; with their stochastic sampling it is multistep consistency. They cast x to float32."""
  injected("flow_match_euler_discrete")
  scheduler = diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=stochastic)
  times = np.linspace(0.98, 0.02, num_steps)
  scheduler.set_timesteps(sigmas=times)
  sigmas = np.append(times / (1 - times), 0.0)
  sampler = samplers.Consistency(0.0) if stochastic else samplers.Euler()
  flow = schedules.RectifiedFlow()
  drawn = ours(sampler, sigmas, denoisers.Flow(), flow, 1000.0)
  path = theirs(scheduler, START)
  assert_agree(at_scale(drawn, sigmas, flow), path, SINGLE)
