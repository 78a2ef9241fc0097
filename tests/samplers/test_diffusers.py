"""The same trajectories as diffusers' DDIM and DDPM, and as their schedulers that work otherwise than by one `step`.

In float64, with the same network, grid and noise.
"""

import importlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import denoisers, editing, grids, samplers, schedules

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

SCHEDULE = schedules.scaled_linear()
BETAS = dict(num_train_timesteps=1000, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
START = np.random.default_rng(0).normal(size=(3, 4, 4, 2))
NOISE = np.random.default_rng(1).normal(size=(120, *START.shape))
PREDICTIONS = {"epsilon": denoisers.Eps(), "v_prediction": denoisers.V(), "sample": denoisers.X0()}

by_steps = pytest.mark.parametrize("num_steps", [10, pytest.param(50, marks=pytest.mark.slow)])
by_kind = pytest.mark.parametrize(
  "kind", ["epsilon", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("v_prediction", "sample"))]
)


def network(np_or_jnp, x, t):
  """Any smooth function will do as a network."""
  return 0.8 * np_or_jnp.tanh(x) + 0.1 * np_or_jnp.cos(3 * x + 0.002 * t)


@pytest.fixture(autouse=True)
def double_by_default():
  before = torch.get_default_dtype()
  torch.set_default_dtype(torch.float64)
  yield
  torch.set_default_dtype(before)


@pytest.fixture
def injected(monkeypatch):
  """injected("ddim"): the random numbers of that scheduler are NOISE, in order, and its tables are float64."""

  def injected(name):
    draws = iter(NOISE)
    module = importlib.import_module(f"diffusers.schedulers.{name}")
    monkeypatch.setattr(module, "randn_tensor", lambda shape, **kwargs: torch.tensor(next(draws)[: shape[0]]))

  return injected


def in_double(scheduler, num_steps, schedule=SCHEDULE):
  scheduler.alphas_cumprod = torch.tensor(np.asarray(schedule.alphas_cumprod))
  scheduler.set_timesteps(num_steps)
  return scheduler


def as_denoiser(prediction, schedule=SCHEDULE):
  net = lambda x, t, cond, key: network(jnp, x, t.reshape(-1, 1, 1, 1))
  return denoisers.NetworkDenoiser(net, prediction, schedule)


def ours(sampler, denoiser, sigmas, x):
  """x at the last level above zero, and x0; the k-th step's noise is NOISE[k]."""
  keys, carry = jax.random.split(jax.random.key(0), len(x)), sampler.init(x)
  noises = jnp.asarray(NOISE[: len(sigmas) - 2])

  def step(state, levels):
    *levels, noise = levels
    return sampler.replace(noise=lambda keys, shape: noise).step(denoiser, state[0], *levels, state[1], keys), None

  x = jax.jit(lambda x: jax.lax.scan(step, (x, carry), (sigmas[:-2], sigmas[1:-1], noises))[0][0])(x)
  return x, denoiser(x, sigmas[-2])


def close(actual, expected):
  np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)


@by_steps
@by_kind
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_euler_is_ddim(eta, spacing, kind, num_steps, injected, x64):
  injected("scheduling_ddim")
  scheduler = diffusers.DDIMScheduler(**BETAS, clip_sample=False, timestep_spacing=spacing, prediction_type=kind)
  x = torch.tensor(START)
  for t in in_double(scheduler, num_steps).timesteps:
    x = scheduler.step(torch.tensor(network(np, x.numpy(), float(t))), t, x, eta=eta).prev_sample
  sigmas = grids.uniform_time(num_steps, SCHEDULE, spacing)
  start = jnp.asarray(START) / SCHEDULE.scaling(sigmas[0])
  close(ours(samplers.Euler(eta), as_denoiser(PREDICTIONS[kind]), sigmas, start)[1], x)


@by_kind
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
def test_ddpm_is_the_ancestral_scheduler(variance, kind, injected, x64):
  """All T = 40 steps, with either variance, or one between that the network says."""
  injected("scheduling_ddpm")
  betas = dict(num_train_timesteps=40, beta_schedule="linear", beta_start=0.002, beta_end=0.3)
  scheduler = diffusers.DDPMScheduler(**betas, clip_sample=False, variance_type=variance, prediction_type=kind)
  schedule = schedules.linear(40, 0.002, 0.3)
  learned = variance == "learned_range"

  def says(np_or_jnp, x, t, axis):
    output = network(np_or_jnp, x, t)
    return np_or_jnp.concatenate([output, np_or_jnp.sin(2 * x + t)], axis) if learned else output

  x = torch.tensor(START)
  for t in in_double(scheduler, 40, schedule).timesteps:
    x = scheduler.step(torch.tensor(says(np, x.numpy(), float(t), 1)), t, x).prev_sample
  net = lambda x, t, cond, key: says(jnp, x, t.reshape(-1, 1, 1, 1), -1)
  denoiser = denoisers.NetworkDenoiser(net, PREDICTIONS[kind], schedule)
  sampler = samplers.DDPM(float(variance == "fixed_large"), learned=learned)
  sigmas = grids.uniform_time(40, schedule)
  close(ours(sampler, denoiser, sigmas, jnp.asarray(START) / schedule.scaling(sigmas[0]))[1], x)


@pytest.mark.parametrize("kind", ["epsilon", "sample"])
@pytest.mark.parametrize("variance", ["fixed_small_log", "learned_range"])
def test_ddpm_is_the_unclip_scheduler(variance, kind, injected, x64):
  """On all steps of its cosine schedule; it knows no v networks."""
  injected("scheduling_unclip")
  scheduler = diffusers.UnCLIPScheduler(40, variance_type=variance, clip_sample=False, prediction_type=kind)
  scheduler.set_timesteps(40)
  learned, schedule = variance == "learned_range", schedules.squared_cosine(40)
  scheduler.alphas_cumprod = torch.tensor(np.asarray(schedule.alphas_cumprod))
  scheduler.alphas = scheduler.alphas_cumprod / torch.cat([torch.ones(1), scheduler.alphas_cumprod[:-1]])
  scheduler.betas = 1 - scheduler.alphas

  def says(np_or_jnp, x, t, axis):
    output = network(np_or_jnp, x, t)
    return np_or_jnp.concatenate([output, np_or_jnp.sin(2 * x + t)], axis) if learned else output

  x = torch.tensor(START)
  for t in scheduler.timesteps:
    x = scheduler.step(torch.tensor(says(np, x.numpy(), float(t), 1)), int(t), x).prev_sample
  net = lambda x, t, cond, key: says(jnp, x, t.reshape(-1, 1, 1, 1), -1)
  denoiser, sigmas = denoisers.NetworkDenoiser(net, PREDICTIONS[kind], schedule), grids.uniform_time(40, schedule)
  sampler = samplers.DDPM(learned=learned)
  close(ours(sampler, denoiser, sigmas, jnp.asarray(START) / schedule.scaling(sigmas[0]))[1], x)


def test_repaint_is_the_repaint_scheduler(injected, x64):
  """Its `step` and `undo_step` in our order: each step but the last is gone twice.

  What is drawn agrees; the known part has fresh noise at each level there, here that of the steps (`Inpaint`).
  """
  injected("scheduling_repaint")
  betas = dict(num_train_timesteps=12, beta_schedule="linear", beta_start=0.01, beta_end=0.4)
  scheduler, schedule = diffusers.RePaintScheduler(**betas, eta=1.0, clip_sample=False), schedules.linear(12, 0.01, 0.4)
  scheduler.alphas_cumprod, scheduler.num_inference_steps = torch.tensor(np.asarray(schedule.alphas_cumprod)), 12
  scheduler.betas = torch.linspace(0.01, 0.4, 12)
  keep = np.zeros((1, 4, 4, 1))
  keep[:, :2] = 1
  known, x = np.full((3, 4, 4, 2), 0.3), torch.tensor(START)
  step = lambda x, t: (
    scheduler.step(
      torch.tensor(network(np, x.numpy(), float(t))), t, x, torch.tensor(known), torch.tensor(keep)
    ).prev_sample
  )
  for t in range(11, 0, -1):
    x = step(scheduler.undo_step(step(x, t), t), t)
  x = step(x, 0)

  draws, sigmas = iter(NOISE), grids.uniform_time(12, schedule)
  noise = lambda keys, shape: jnp.asarray(next(draws))
  sampler = editing.RePaint(samplers.DDPM(noise=noise), sigmas, jump=1, resamples=2, noise=noise)
  denoiser = editing.Inpaint(as_denoiser(denoisers.Eps(), schedule), jnp.asarray(known), jnp.asarray(1 - keep))
  keys, path, carry = jax.random.split(jax.random.key(0), 3), jnp.asarray(START) / schedule.scaling(sigmas[0]), ()
  with jax.disable_jit():
    for levels in itertools.pairwise(sigmas[:-1]):
      path, carry = sampler.step(denoiser, path, *levels, carry, keys)
  x0 = denoiser(path, sigmas[-2])
  close(x0[:, 2:], x[:, 2:])
  close(x0[:, :2], known[:, :2])


@by_steps
@by_kind
def test_ddim_inversion_is_the_inverse_scheduler(kind, num_steps, x64):
  """Both evaluate the network at the upper level, on the same variance-preserving x."""
  scheduler = diffusers.DDIMInverseScheduler(
    **BETAS, clip_sample=False, timestep_spacing="trailing", prediction_type="epsilon"
  )
  sigmas = grids.uniform_time(num_steps, SCHEDULE)
  denoiser, x = as_denoiser(PREDICTIONS[kind]), torch.tensor(START)
  for t, sigma in zip(in_double(scheduler, num_steps).timesteps, sigmas[-2::-1], strict=True):
    exploding = x.numpy() * np.sqrt(1 + float(sigma) ** 2)
    eps = (exploding - np.asarray(denoiser(jnp.asarray(exploding), sigma))) / float(sigma)
    x = scheduler.step(torch.tensor(eps), int(t), x).prev_sample
  inverted = editing.ddim_invert(denoiser, jnp.asarray(START), sigmas)
  close(inverted * SCHEDULE.scaling(sigmas[0]), x)


@by_steps
def test_heun_with_churn_is_the_karras_ve_scheduler(num_steps, injected, x64):
  """On our grid: theirs takes sigma^2 for sigma."""
  injected("deprecated.scheduling_karras_ve")
  scheduler = diffusers.KarrasVeScheduler(s_churn=20.0)
  scheduler.set_timesteps(num_steps)
  sigmas, denoiser = grids.karras(num_steps, 0.03, 60.0), as_denoiser(denoisers.Eps())
  towards = lambda x, sigma: (torch.tensor(np.asarray(denoiser(jnp.asarray(x.numpy()), sigma))) - x) / sigma
  x = torch.tensor(START * 60.0)
  for sigma, sigma_next in itertools.pairwise(map(float, sigmas[:-1])):
    x_hat, sigma_hat = scheduler.add_noise_to_input(x, sigma)
    first = scheduler.step(towards(x_hat, sigma_hat), sigma_hat, sigma_next, x_hat)
    x = scheduler.step_correct(
      towards(first.prev_sample, sigma_next), sigma_hat, sigma_next, x_hat, first.prev_sample, first.derivative
    ).prev_sample
  sampler = samplers.Churn(samplers.Heun(), 20.0, 0.05, 50.0, 1.007, num_steps=num_steps)
  close(ours(sampler, denoiser, sigmas, jnp.asarray(START * 60.0))[0], x)


@by_steps
def test_predictor_and_corrector_are_the_ve_schedulers(num_steps, injected, x64):
  """Theirs takes the mean of the batch's norms, so that one picture is drawn, and has a grid of its own."""
  injected("scheduling_sde_ve")
  scheduler = diffusers.ScoreSdeVeScheduler(num_steps + 1, snr=0.15, sigma_min=0.02, sigma_max=60.0)
  sigmas, denoiser = grids.exponential(num_steps, 0.02, 60.0), as_denoiser(denoisers.Eps())
  scheduler.discrete_sigmas = torch.tensor(np.append(0.01, sigmas[-2::-1]))  # one level below, where they end
  score = lambda x, sigma: (torch.tensor(np.asarray(denoiser(jnp.asarray(x.numpy()), sigma))) - x) / sigma**2
  x = torch.tensor(START[:1] * 60.0)
  for i, (sigma, sigma_next) in enumerate(itertools.pairwise(map(float, sigmas[:-1]))):
    t = torch.tensor((num_steps - i + 0.5) / num_steps)  # they round down
    x = scheduler.step_pred(score(x, sigma), t, x).prev_sample
    x = scheduler.step_correct(score(x, sigma_next), x).prev_sample
  predictor = samplers.DDPM(1.0, scaling=schedules.variance_exploding)
  keys, path = jax.random.split(jax.random.key(0), 1), jnp.asarray(START[:1] * 60.0)
  draws = iter(NOISE[:, :1])
  noise = lambda keys, shape: jnp.asarray(next(draws))
  sampler = samplers.PredictorCorrector(predictor.replace(noise=noise), 0.15, added_dims=0, noise=noise)
  for levels in itertools.pairwise(sigmas[:-1]):
    path, _ = sampler.step(denoiser, path, *levels, (), keys)
  close(path, x)


@by_steps
def test_consistency_is_the_trig_flow_scheduler(num_steps, injected, x64):
  """sCM's x_t = cos(t) x0 + sin(t) sigma_data noise, so sigma = sigma_data tan(t), drawn by `Consistency`."""
  injected("scheduling_scm")
  scheduler = diffusers.SCMScheduler(sigma_data=0.5)
  scheduler.set_timesteps(num_steps, max_timesteps=1.57, intermediate_timesteps=None)
  times = scheduler.timesteps.double().numpy()
  scheduler.timesteps = torch.tensor(times)
  x = torch.tensor(START)
  for t in scheduler.timesteps[:-1]:
    x = scheduler.step(torch.tensor(network(np, x.numpy(), float(t))), t, x).prev_sample

  def denoiser(x, sigma, cond=None, *, key=None):
    t = jnp.arctan(sigma / 0.5)
    return jnp.cos(t) ** 2 * x - jnp.sin(t) * network(jnp, jnp.cos(t) * x, t)

  sigmas = jnp.asarray(0.5 * np.tan(times)).at[-1].set(0)
  close(ours(samplers.Consistency(0.0), denoiser, sigmas, jnp.asarray(START / np.cos(times[0])))[1], x)
