"""The same trajectories as diffusers' multistep schedulers, in float64, with the same network on the same grid.

Their schedulers keep levels in float32, so each is handed the grid in float64. Trajectories are compared at the last
level above zero; the step to zero is compared where theirs is the denoiser too, and else its difference is named.
"""

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
PREDICTIONS = {"epsilon": denoisers.Eps(), "v_prediction": denoisers.V(), "sample": denoisers.X0()}

every_prediction = pytest.mark.parametrize("prediction", PREDICTIONS)
both_lengths = pytest.mark.parametrize("num_steps", [10, 50])


def network(np_or_jnp, x, t):
  """Any smooth function will do, whatever it is said to predict."""
  return 0.8 * np_or_jnp.tanh(x) + 0.1 * np_or_jnp.cos(3 * x + 0.002 * t)


def converted(x, t, source, target):
  """What the network says at x_t, time t, as another kind of prediction."""
  output, sigma = network(np, x, t), float(SCHEDULE.sigma(jnp.asarray(float(t))))
  if source == target:
    return output
  scaled = jnp.asarray(x) / SCHEDULE.scaling(sigma)
  both = PREDICTIONS[source], PREDICTIONS[target]
  return np.asarray(denoisers.convert(jnp.asarray(output), scaled, jnp.asarray(sigma), SCHEDULE, *both))


def ours(sampler, sigmas, prediction):
  """(x_t at the last level above zero, x0)."""
  denoise = denoisers.NetworkDenoiser(
    lambda x, t, cond, key: network(jnp, x, t.reshape(-1, 1, 1, 1)), PREDICTIONS[prediction], SCHEDULE
  )
  x = jnp.asarray(START) / SCHEDULE.scaling(sigmas[0])
  x0, path = diffjax.sample(denoise, sampler, x, sigmas, key=jax.random.key(0), trajectory=True)
  return np.asarray(path[-2] * SCHEDULE.scaling(sigmas[-2])), np.asarray(x0)


def walk(scheduler, start, predict):
  """Their x after every call but the last, and after that."""
  x = torch.tensor(start)
  for t in scheduler.timesteps:
    before, x = x, scheduler.step(torch.tensor(predict(x.numpy(), t)), t, x).prev_sample
    assert x.dtype == torch.float64
  return before.numpy(), x.numpy()


def with_float64_levels(scheduler, num_steps, sigmas):
  scheduler.set_timesteps(num_steps)
  np.testing.assert_allclose(scheduler.sigmas[:-1], sigmas[:-1], rtol=1e-4)  # it is their own grid
  scheduler.sigmas = torch.tensor(np.asarray(sigmas))
  return scheduler


def close(actual, expected, tolerance=1e-10):
  np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@every_prediction
@both_lengths
def test_dpmpp_3m_is_the_multistep_scheduler_but_for_its_weight(num_steps, prediction, x64):
  """Theirs has half the second difference that the integral has, and so converges at order 2 only.

  It also rounds x to float32 at each step, hence 1e-5. Its second step is our own with their solver_type "heun".
  """
  sigmas = grids.uniform_time(num_steps, SCHEDULE)
  options = dict(solver_order=3, solver_type="heun", lower_order_final=False, timestep_spacing="trailing")
  scheduler = diffusers.DPMSolverMultistepScheduler(**BETAS, **options, prediction_type=prediction)
  scheduler = with_float64_levels(scheduler, num_steps, sigmas)
  expected = walk(scheduler, START, lambda x, t: network(np, x, float(t)))
  close(ours(samplers.DPMpp3M(shipped=True), sigmas, prediction), expected, 1e-5)
  assert np.abs(ours(samplers.DPMpp3M(), sigmas, prediction)[0] - expected[0]).max() > 1e-3


@every_prediction
@both_lengths
@pytest.mark.parametrize(("order", "kind"), [(1, "bh1"), (2, "bh1"), (2, "bh2"), (3, "bh1"), (3, "bh2")])
def test_unipc_is_the_unipc_scheduler(order, kind, num_steps, prediction, x64):
  """Theirs of order 3 cannot step to zero (its system of equations is singular), so its last level is above it."""
  sigmas = grids.uniform_time(num_steps, SCHEDULE)
  options = dict(solver_order=order, solver_type=kind, lower_order_final=False, timestep_spacing="trailing")
  scheduler = diffusers.UniPCMultistepScheduler(**BETAS, **options, prediction_type=prediction)
  scheduler = with_float64_levels(scheduler, num_steps, sigmas.at[-1].set(SCHEDULE.sigma(0)))
  expected, _ = walk(scheduler, START, lambda x, t: network(np, x, float(t)))
  close(ours(samplers.UniPC(order, kind), sigmas, prediction)[0], expected)


@every_prediction
@both_lengths
@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis_is_the_deis_scheduler(order, num_steps, prediction, x64):
  """Their last step goes to the schedule's first level, not to zero."""
  sigmas = grids.uniform_time(num_steps, SCHEDULE)
  options = dict(solver_order=order, lower_order_final=False, timestep_spacing="trailing", prediction_type=prediction)
  scheduler = diffusers.DEISMultistepScheduler(**BETAS, **options)
  scheduler = with_float64_levels(scheduler, num_steps, sigmas.at[-1].set(SCHEDULE.sigma(0)))
  expected, _ = walk(scheduler, START, lambda x, t: network(np, x, float(t)))
  close(ours(samplers.DEIS(order), sigmas, prediction)[0], expected)


@every_prediction
@both_lengths
def test_lms_is_the_lms_scheduler(num_steps, prediction, x64):
  """Their last step extrapolates old slopes to zero; x there is not scaled by alpha; they know no x0 networks."""
  sigmas = grids.uniform_time(num_steps, SCHEDULE)
  theirs = "epsilon" if prediction == "sample" else prediction
  scheduler = diffusers.LMSDiscreteScheduler(**BETAS, timestep_spacing="trailing", prediction_type=theirs)
  scheduler = with_float64_levels(scheduler, num_steps, sigmas)

  def predict(x, t):
    return converted(scheduler.scale_model_input(torch.tensor(x), t).numpy(), float(t), prediction, theirs)

  expected, _ = walk(scheduler, START / float(SCHEDULE.scaling(sigmas[0])), predict)
  close(ours(samplers.LMS(), sigmas, prediction)[0], expected * float(SCHEDULE.scaling(sigmas[-2])))


def pndm(num_steps, skip_prk, prediction, predict):
  options = dict(skip_prk_steps=skip_prk, timestep_spacing="trailing", prediction_type=prediction)
  scheduler = diffusers.PNDMScheduler(**BETAS, **options)
  scheduler.alphas_cumprod = torch.tensor(np.asarray(SCHEDULE.alphas_cumprod))
  scheduler.set_timesteps(num_steps)
  return walk(scheduler, START, predict)[0]


@every_prediction
@both_lengths
@pytest.mark.parametrize("skip_prk", [False, True])
def test_pndm_is_the_pndm_scheduler(skip_prk, num_steps, prediction, x64):
  """For eps networks; any other is handed to theirs as eps. Their last step extrapolates, to the first level."""
  expected = pndm(num_steps, skip_prk, "epsilon", lambda x, t: converted(x, float(t), prediction, "epsilon"))
  drawn, _ = ours(samplers.PNDM(SCHEDULE, skip_prk), grids.uniform_time(num_steps, SCHEDULE), prediction)
  close(drawn, expected)


@pytest.mark.parametrize("skip_prk", [False, True])
def test_their_pndm_combines_v_instead_of_eps(skip_prk, x64):
  """The paper's method combines eps; theirs combines v of several x and t, and turns the sum into eps at one of them.

  So its v networks follow another path than the same networks as eps do.
  """
  as_eps = pndm(10, skip_prk, "epsilon", lambda x, t: converted(x, float(t), "v_prediction", "epsilon"))
  as_v = pndm(10, skip_prk, "v_prediction", lambda x, t: network(np, x, float(t)))
  drawn, _ = ours(samplers.PNDM(SCHEDULE, skip_prk), grids.uniform_time(10, SCHEDULE), "v_prediction")
  close(drawn, as_eps)
  assert np.abs(drawn - as_v).max() > 1e-3


@every_prediction
@both_lengths
def test_ipndm_is_the_ipndm_scheduler(num_steps, prediction, x64):
  """Theirs knows v networks only, and a grid of its own: it is handed ours. Its last step extrapolates to zero."""
  sigmas = grids.uniform_time(num_steps, SCHEDULE)
  scheduler = diffusers.IPNDMScheduler()
  scheduler.set_timesteps(num_steps)
  alphas = SCHEDULE.scaling(sigmas)
  scheduler.alphas, scheduler.betas = torch.tensor(np.asarray(alphas)), torch.tensor(np.asarray(alphas * sigmas))
  times = dict(zip(scheduler.timesteps.tolist(), np.asarray(SCHEDULE.t(sigmas[:-1])), strict=True))
  predict = lambda x, t: converted(x, times[float(t)], prediction, "v_prediction")
  close(ours(samplers.IPNDM(), sigmas, prediction)[0], walk(scheduler, START, predict)[0])
