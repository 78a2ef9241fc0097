"""Whole trajectories of diffusers' one-step schedulers in float64, for every kind of prediction that they know.

Their schedulers keep the noise levels in float32 and evaluate networks at whole timesteps; here both sides get the same
levels in float64, and the network is a function of sigma.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffjax
from diffjax import denoisers, samplers, schedules

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # theirs

VP = schedules.SigmaAsTime(schedules.variance_preserving)  # its time is sigma itself
PREDICTIONS = {"epsilon": denoisers.Eps(), "v_prediction": denoisers.V(), "sample": denoisers.X0()}
BETAS = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
HIGH, LOW = 14.6, 0.03
START = np.random.default_rng(0).normal(size=(3, 4, 4, 2))


def network(np_or_jnp, x, sigma):
  """Any smooth function will do, whatever it is said to predict."""
  return 0.8 * np_or_jnp.tanh(x) + 0.1 * np_or_jnp.cos(3 * x + 0.2 * np_or_jnp.log(sigma))


def ours(sampler, prediction, sigmas):
  """x after every step, in x = x0 + sigma * noise."""
  net = lambda x, sigma, cond, key: network(jnp, x, sigma.reshape(-1, 1, 1, 1))
  denoise = denoisers.NetworkDenoiser(net, PREDICTIONS[prediction], VP)
  x = jnp.asarray(START) * jnp.sqrt(1 + sigmas[0] ** 2)
  return diffjax.sample(denoise, sampler, x, sigmas, key=jax.random.key(0), trajectory=True)[1]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("num_steps", [10, 50])
def test_dpm2_is_the_k_dpm_2_scheduler(prediction, num_steps, x64):
  """Theirs has no churn, and refuses networks that predict x0: it is handed their noise."""
  known = "epsilon" if prediction == "sample" else prediction
  scheduler = diffusers.KDPM2DiscreteScheduler(**BETAS, prediction_type=known)
  scheduler.set_timesteps(num_steps)
  scheduler.sigmas = scheduler.sigmas.double()
  sigmas = scheduler.sigmas.numpy()[[0, *range(1, 2 * num_steps, 2)]]
  mid = np.sqrt(sigmas[1:] * sigmas[:-1])
  np.testing.assert_allclose(scheduler.sigmas_interpol[1:-1:2], mid, rtol=1e-6)
  scheduler.sigmas_interpol = torch.tensor([0, *np.repeat(mid, 2)])
  x = torch.tensor(START) * np.sqrt(1 + sigmas[0] ** 2)
  for t in scheduler.timesteps:
    scaled = scheduler.scale_model_input(x, t)
    levels = scheduler.sigmas if scheduler.state_in_first_order else scheduler.sigmas_interpol
    sigma = levels[scheduler.step_index].item()
    output = network(np, scaled.numpy(), sigma)
    output = (x.numpy() - output) / sigma if prediction == "sample" else output
    x = scheduler.step(torch.tensor(output), t, x).prev_sample
  drawn = ours(samplers.DPMSolver(2), prediction, sigmas)
  np.testing.assert_allclose(drawn[-1], x, rtol=1e-10, atol=1e-10)


def single_step(algorithm, order, prediction, num_steps, third_order_by_the_paper=True):
  """Their sample at the last level above zero; every `order`-th of their levels is one of ours."""
  scheduler = diffusers.DPMSolverSinglestepScheduler(
    **BETAS,
    solver_order=order,
    algorithm_type=algorithm,
    prediction_type=prediction,
    lower_order_final=False,
    final_sigmas_type="sigma_min",
  )
  sigmas = np.geomspace(HIGH, LOW, order * num_steps + 1)
  scheduler.set_timesteps(order * num_steps)
  scheduler.sigmas = torch.tensor(sigmas)
  x = torch.tensor(START)
  for i, t in enumerate(scheduler.timesteps):
    if order == 3 and third_order_by_the_paper:
      scheduler.register_to_config(solver_type="heun" if scheduler.order_list[i] == 2 else "midpoint")
    x = scheduler.step(torch.tensor(network(np, x.numpy(), sigmas[i])), t, x).prev_sample
  return x.numpy() * np.sqrt(1 + sigmas[-1] ** 2), np.append(sigmas[::order], 0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("num_steps", [10, 50])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("algorithm", ["dpmsolver", "dpmsolver++"])
def test_single_steps_are_the_single_step_scheduler(algorithm, order, num_steps, prediction, x64):
  expected, sigmas = single_step(algorithm, order, prediction, num_steps)
  sampler = {"dpmsolver": samplers.DPMSolver, "dpmsolver++": samplers.DPMppS}[algorithm](order)
  np.testing.assert_allclose(ours(sampler, prediction, sigmas)[-2], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("algorithm", ["dpmsolver", "dpmsolver++"])
def test_their_third_order_takes_its_second_node_by_the_second_order_rule(algorithm, x64):
  """With one solver_type for all, theirs weighs that slope by (e^h - 1) / 2, the papers by (e^h - 1 - h) / h.

  Both are third order. "heun" at that node and "midpoint" in the step, as above, is the papers' algorithm.
  """
  paper, _ = single_step(algorithm, 3, "epsilon", 10)
  theirs, _ = single_step(algorithm, 3, "epsilon", 10, third_order_by_the_paper=False)
  assert 1e-4 < np.abs(theirs - paper).max() < 0.1


@pytest.mark.parametrize("order", [1, 2, 3])
def test_their_step_to_zero_is_the_denoiser(order, x64):
  sigmas = np.append(np.geomspace(HIGH, LOW, 10 * order + 1), 0)
  scheduler = diffusers.DPMSolverSinglestepScheduler(**BETAS, solver_order=order, lower_order_final=True)
  scheduler.set_timesteps(10 * order + 1)
  scheduler.sigmas = torch.tensor(sigmas)
  x = torch.tensor(START)
  for i, t in enumerate(scheduler.timesteps):
    scheduler.register_to_config(solver_type="heun" if order == 3 and scheduler.order_list[i] == 2 else "midpoint")
    x = scheduler.step(torch.tensor(network(np, x.numpy(), sigmas[i])), t, x).prev_sample
  drawn = ours(samplers.DPMppS(order), "epsilon", np.append(sigmas[:-1:order], 0))
  np.testing.assert_allclose(drawn[-1], x, rtol=1e-10, atol=1e-10)
