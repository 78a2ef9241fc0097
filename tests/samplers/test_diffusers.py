"""The same trajectories as diffusers' schedulers, with the same network and the same noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffjax
from diffjax import denoisers, grids, samplers, schedules

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

SCHEDULE = schedules.scaled_linear()
BETAS = dict(num_train_timesteps=1000, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
START = np.random.default_rng(0).normal(size=(3, 4, 4, 2))
NOISE = np.random.default_rng(1).normal(size=START.shape)


def network(np_or_jnp, x, t):
  """Any smooth function will do as an eps network."""
  return 0.8 * np_or_jnp.tanh(x) + 0.1 * np_or_jnp.cos(3 * x + 0.002 * t)


def ours(sampler, sigmas):
  denoise = denoisers.NetworkDenoiser(
    lambda x, t, cond, key: network(jnp, x, t.reshape(-1, 1, 1, 1)), denoisers.Eps(), SCHEDULE
  )
  x = jnp.asarray(START) / SCHEDULE.scaling(sigmas[0])
  return diffjax.sample(denoise, sampler, x, sigmas, key=jax.random.key(0))


def theirs(scheduler, num_steps, **step_options):
  scheduler.set_timesteps(num_steps)
  x = torch.tensor(START)
  for t in scheduler.timesteps:
    eps = torch.tensor(network(np, x.numpy(), float(t)))
    x = scheduler.step(eps, t, x, **step_options).prev_sample.double()
  return x.numpy()


def fixed_noise(keys, shape):
  return jnp.asarray(NOISE, jnp.result_type(float))


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_euler_is_ddim(eta, spacing, x64):
  scheduler = diffusers.DDIMScheduler(**BETAS, clip_sample=False, timestep_spacing=spacing)
  expected = theirs(scheduler, 20, eta=eta, variance_noise=torch.tensor(NOISE) if eta else None)
  sampler = samplers.Euler(eta, noise=fixed_noise)
  drawn = ours(sampler, grids.uniform_time(20, SCHEDULE, spacing))
  np.testing.assert_allclose(drawn, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("num_steps", [10, 25])
def test_dpmpp_2m_is_the_multistep_scheduler(eta, num_steps, x64):
  scheduler = diffusers.DPMSolverMultistepScheduler(
    **BETAS, solver_order=2, algorithm_type="sde-dpmsolver++" if eta else "dpmsolver++", timestep_spacing="trailing"
  )
  expected = theirs(scheduler, num_steps, **({"variance_noise": torch.tensor(NOISE)} if eta else {}))
  drawn = ours(samplers.DPMpp2M(eta, noise=fixed_noise), grids.uniform_time(num_steps, SCHEDULE))
  np.testing.assert_allclose(drawn, expected, rtol=5e-4, atol=5e-4)


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_ddpm_is_the_ancestral_scheduler(fraction, x64):
  """All T = 40 steps, with either variance."""
  betas = dict(num_train_timesteps=40, beta_schedule="linear", beta_start=0.002, beta_end=0.3)
  scheduler = diffusers.DDPMScheduler(
    **betas, clip_sample=False, variance_type="fixed_large" if fraction else "fixed_small"
  )
  schedule = schedules.linear(40, 0.002, 0.3)
  scheduler.set_timesteps(40)
  x, sigmas = torch.tensor(START), grids.uniform_time(40, schedule)
  denoise = denoisers.NetworkDenoiser(
    lambda x, t, cond, key: network(jnp, x, t.reshape(-1, 1, 1, 1)), denoisers.Eps(), schedule
  )
  ours = jnp.asarray(START) / schedule.scaling(sigmas[0])
  for i, t in enumerate(scheduler.timesteps[:-1]):
    generator = torch.Generator().manual_seed(i)
    drawn = torch.randn(START.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
    x = scheduler.step(torch.tensor(network(np, x.numpy(), float(t))), t, x, generator=generator).prev_sample.double()
    sampler = samplers.DDPM(fraction, noise=lambda keys, shape, drawn=drawn: jnp.asarray(drawn.numpy()))
    keys = jax.random.split(jax.random.key(0), len(START))
    ours, _ = sampler.step(denoise, ours, sigmas[i], sigmas[i + 1], (), keys)
  np.testing.assert_allclose(ours * schedule.scaling(sigmas[39]), x, rtol=1e-3, atol=1e-3)
