"""The stochastic samplers on data whose reverse process is known in closed form."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian, Mixture

import diffjax
from diffjax import grids, samplers, schedules

HIGH, LOW, STD = 20.0, 0.1, 0.5


def SDE(sigma):
  """phi(sigma) / sigma of the reverse SDE."""
  return sigma


@functools.cache
def transition(sampler, oracle):
  """A step as s' = A s + B z + c: what depends on the noise, x and the pictures in the carry, is one vector s."""

  @jax.jit
  def transition(s, rest, sigma, sigma_next):
    def step(s, z):
      draws = iter(z)
      noisy = sampler.replace(noise=lambda keys, shape: next(draws).reshape(shape))
      keys = jax.random.split(jax.random.key(0), 1)
      x, carry = split_state(sampler, (1, 1), s, rest)
      return merge_state(*noisy.step(oracle, x, sigma, sigma_next, carry, keys))

    (a, b), (s_next, rest) = jax.jacfwd(lambda s, z: (step(s, z)[0], step(s, z)), (0, 1), has_aux=True)(s, jnp.zeros(2))
    return s_next, rest, a, b

  return transition


def propagate(sampler, oracle, sigmas, variance):
  """(mean, variance, response to the start) at sigmas[-1], exact, for a denoiser that is affine in x.

  The covariance goes from P to A P A^T + B B^T.
  """
  x = jnp.full((1, 1), oracle.mean)
  s, rest = merge_state(x, sampler.init(x))
  # a carry that holds the start knows it as it is
  response = np.asarray(jax.jacfwd(lambda x: merge_state(x, sampler.init(x))[0])(x)).reshape(-1)
  covariance = variance * np.outer(response, response)
  for sigma, sigma_next in itertools.pairwise(sigmas):
    s, rest, a, b = transition(sampler, oracle)(s, rest, sigma, sigma_next)
    a, b = np.asarray(a), np.asarray(b)
    covariance, response = a @ covariance @ a.T + b @ b.T, a @ response
  return float(s[0]), covariance[0, 0], response[0]


def merge_state(x, carry):
  """(vector of x and of the pictures in the carry, the other leaves)."""
  leaves = jax.tree.leaves((x, carry))
  pictures = jnp.concatenate([leaf.ravel() for leaf in leaves if leaf.ndim > 1])
  return pictures, [leaf for leaf in leaves if leaf.ndim <= 1]


def split_state(sampler, shape, s, rest):
  """The inverse of `merge_state`: (x, carry)."""
  start = jax.ShapeDtypeStruct(shape, s.dtype)
  leaves, structure = jax.tree.flatten((start, jax.eval_shape(sampler.init, start)))
  rest, count, made = iter(rest), 0, []
  for leaf in leaves:
    if len(leaf.shape) > 1:
      size = int(np.prod(leaf.shape))
      made.append(s[count : count + size].reshape(leaf.shape))
      count += size
    else:
      made.append(next(rest))
  return jax.tree.unflatten(structure, made)


METHODS = {
  "dpm2_ancestral": samplers.Ancestral(samplers.DPMSolver(2)),
  "dpm2_ancestral eta 0.5": samplers.Ancestral(samplers.DPMSolver(2), 0.5),
  "dpmpp_2s_ancestral": samplers.Ancestral(samplers.DPMppS(2)),
  "dpmpp_2s_ancestral eta 0.5": samplers.Ancestral(samplers.DPMppS(2), 0.5),
  "dpmpp_sde": samplers.DPMppSDE(),
  "dpmpp_sde eta 0.5": samplers.DPMppSDE(0.5),
  "dpmpp_3m_sde": samplers.DPMpp3M(1.0),
  "dpmpp_3m_sde eta 0.5": samplers.DPMpp3M(0.5),
  "dpmpp_3m_sde shipped": samplers.DPMpp3M(1.0, shipped=True),
  **{f"sa_solver {p}{c}": samplers.SASolver(p, c) for p, c in [(1, 0), (1, 1), (2, 0), (2, 2), (3, 0), (3, 3), (4, 4)]},
  "sa_solver tau 0.5": samplers.SASolver(3, 3, tau=0.5),
  "sa_solver 22 shipped": samplers.SASolver(2, 2, shipped=True),
  **{f"er_sde {order}": samplers.ERSDE(order) for order in (1, 2, 3)},
  **{f"er_sde {order} sde": samplers.ERSDE(order, SDE) for order in (1, 2, 3)},
  "er_sde 3 shipped": samplers.ERSDE(3, shipped=True),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_single_datum_keeps_its_marginal_exactly(name, x64):
  """Data at one point: x - x0 is all noise, so each step must leave sigma_next^2 exactly, however long it is."""
  sigmas = np.array([30.0, 4.0, 1.0, 0.3])
  mean, variance, _ = propagate(METHODS[name], Gaussian(0.3, 0.0), sigmas, sigmas[0] ** 2)
  np.testing.assert_allclose([mean, variance], [0.3, 0.3**2], rtol=1e-12)


def rates(found):
  return np.log2(np.divide(found[:-1], found[1:]))


def errors(sampler, tau, num_steps):
  """Relative errors of the variance, and of what remains of the start in the mean: E[x_LOW | x_HIGH]."""
  sigmas = np.geomspace(HIGH, LOW, num_steps + 1)
  mean, variance, response = propagate(sampler, Gaussian(0.3, STD), sigmas, STD**2 + HIGH**2)
  np.testing.assert_allclose(mean, 0.3, rtol=1e-9)
  exact = (LOW**2 + STD**2) / (HIGH**2 + STD**2)
  return abs(variance / (STD**2 + LOW**2) - 1), abs(response / exact ** ((1 + tau**2) / 2) - 1)


VARIANCE_ORDERS = {
  "dpm2_ancestral": 2,
  "dpm2_ancestral eta 0.5": 2,
  "dpmpp_2s_ancestral": 2,
  "dpmpp_sde": 2,
  "dpmpp_sde eta 0.5": 2,
  "dpmpp_3m_sde": 2,
  "sa_solver 10": 1,
  "sa_solver 20": 2,
  "sa_solver 22": 2,
  "sa_solver 33": 2,
  "sa_solver tau 0.5": 2,
  "er_sde 1": 1,
  "er_sde 2": 2,
  "er_sde 3": 2,
  "er_sde 3 sde": 2,
}


@pytest.mark.parametrize("name", VARIANCE_ORDERS)
def test_variance_converges_to_that_of_the_data(name, x64):
  found = [errors(METHODS[name], 1.0, num)[0] for num in (64, 128)]
  assert found[-1] < (0.05 if VARIANCE_ORDERS[name] == 1 else 0.001)
  assert rates(found) > VARIANCE_ORDERS[name] - 0.1, found


@pytest.mark.parametrize("name", ["dpmpp_sde", "dpmpp_3m_sde", "sa_solver 10", "sa_solver 33", "er_sde 2 sde"])
def test_the_reverse_sde_keeps_the_mean_exactly(name, x64):
  """E[x0 | x] is a martingale of the reverse SDE, so extrapolating it costs nothing in the mean."""
  assert errors(METHODS[name], 1.0, 8)[1] < 1e-12


@pytest.mark.parametrize(("name", "tau", "order"), [("dpmpp_sde eta 0.5", 0.5**0.5, 2), ("sa_solver tau 0.5", 0.5, 3)])
def test_mean_converges_between_ode_and_sde(name, tau, order, x64):
  found = [errors(METHODS[name], tau, num)[1] for num in (64, 128)]
  assert rates(found) > order - 0.1, found


FAR = 1000.0
START = np.linspace(-2.5, 2.5, 5)[:, None] * FAR
ONE = jnp.ones_like
ODES = {
  "dpm2_ancestral": (samplers.Ancestral(samplers.DPMSolver(2), 0.0), 2),
  "dpmpp_2s_ancestral": (samplers.Ancestral(samplers.DPMppS(2), 0.0), 2),
  "dpmpp_sde": (samplers.DPMppSDE(0.0), 2),
  "dpmpp_3m_sde": (samplers.DPMpp3M(0.0), 3),
  "dpmpp_3m_sde shipped": (samplers.DPMpp3M(0.0, shipped=True), 2),
  "sa_solver 10": (samplers.SASolver(1, 0, 0.0), 1),
  "sa_solver 11": (samplers.SASolver(1, 1, 0.0), 1),
  "sa_solver 20": (samplers.SASolver(2, 0, 0.0), 2),
  "sa_solver 20 shipped": (samplers.SASolver(2, 0, 0.0, shipped=True), 2),
  "sa_solver 23": (samplers.SASolver(2, 3, 0.0), 3),
  "sa_solver 44": (samplers.SASolver(4, 4, 0.0), 4),
  "er_sde 1": (samplers.ERSDE(1, ONE), 1),
  "er_sde 2": (samplers.ERSDE(2, ONE), 2),
  "er_sde 3": (samplers.ERSDE(3, ONE), 3),
  "er_sde 3 shipped": (samplers.ERSDE(3, ONE, shipped=True), 2),
}


@functools.cache
def exact_flow(oracle):
  return oracle.flow(START, FAR, LOW)


def solve_error(sampler, oracle, num_steps):
  sampler = sampler.replace(noise=lambda keys, shape: jnp.zeros(shape))
  step = jax.jit(lambda x, levels, carry, keys: sampler.step(oracle, x, *levels, carry, keys))
  x, keys = jnp.asarray(START), jax.random.split(jax.random.key(0), len(START))
  carry = sampler.init(x)
  for levels in itertools.pairwise(np.geomspace(FAR, LOW, num_steps + 1)):
    x, carry = step(x, levels, carry, keys)
  return np.abs(x - exact_flow(oracle)).max()


@pytest.mark.parametrize(
  "oracle", [Mixture(), pytest.param(Gaussian(), marks=pytest.mark.slow)], ids=["mixture", "gaussian"]
)
@pytest.mark.parametrize("name", ODES)
def test_without_noise_the_order_is_that_of_the_ode_solver(name, oracle, x64):
  """From a sigma so large that the first steps, of lower order, cost nothing."""
  sampler, order = ODES[name]
  nums = (240, 480) if order == 4 and isinstance(oracle, Gaussian) else (120, 240)
  found = [solve_error(sampler, oracle, num) for num in nums]
  assert abs(rates(found) - order) < 0.25, found
  assert found[-1] < 0.015


@pytest.mark.parametrize(("order", "nums"), [(2, (480, 960)), (3, (120, 240))])
def test_corrector_of_the_predictors_order(order, nums, x64):
  """Its errors of this order and the next compete, so that the limit shows late."""
  with_it = [solve_error(samplers.SASolver(order, order, 0.0), Mixture(), num) for num in nums]
  assert rates(with_it) > order - 0.25, with_it
  assert with_it[0] < 0.5 * solve_error(samplers.SASolver(order, 0, 0.0), Mixture(), nums[0])


KEYS = jax.random.split(jax.random.key(0), 4)
KARRAS = grids.karras(8, 0.02, 20.0)
X = KARRAS[0] * jax.random.normal(jax.random.key(1), (4, 6))
SAME = {
  "3m sde is the predictor of sa": (samplers.DPMpp3M(0.49), samplers.SASolver(3, 0, 0.7)),
  "sde without noise is 2s": (samplers.DPMppSDE(0.0), samplers.Ancestral(samplers.DPMppS(2), 0.0)),
  "er_sde of first order is ancestral": (samplers.ERSDE(1, SDE), samplers.Euler(1.0)),
  "er_sde of first order is euler": (samplers.ERSDE(1, ONE), samplers.Euler()),
  "er_sde ignores the choice below order 3": (samplers.ERSDE(2), samplers.ERSDE(2, shipped=True)),
  "sa of first order is ddim": (samplers.SASolver(1, 0, 0.0), samplers.Euler()),
  "sa outside its interval": (samplers.SASolver(2, 2, 1.0, interval=(100.0, 200.0)), samplers.SASolver(2, 2, 0.0)),
  "no corrections": (samplers.PredictorCorrector(samplers.Euler(), num_corrections=0), samplers.Euler()),
  "lcm is tcd that jumps to the data": (samplers.Consistency(0.0), samplers.TCD(1.0, schedules.VP())),
  "tcd without noise is euler": (samplers.TCD(0.0, schedules.VP()), samplers.Euler()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAME)
def test_relatives_agree(name, x64):
  one, other = (diffjax.sample(Mixture(), s, jnp.asarray(X, float), KARRAS, key=KEYS) for s in SAME[name])
  np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


ALL = {
  **METHODS,
  "consistency": samplers.Consistency(),
  "tcd": samplers.TCD(),
  "predictor_corrector": samplers.PredictorCorrector(samplers.DPMpp2M(), num_corrections=2),
}
BRIEF = ["dpm2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_3m_sde", "sa_solver 33", "er_sde 3"]
BRIEF += ["consistency", "tcd", "predictor_corrector"]


@pytest.mark.slow
@pytest.mark.parametrize("name", BRIEF)
def test_float32_from_a_nearly_infinite_sigma(name):
  """Pictures and their gradient are finite, and a picture does not depend on its batch mates."""
  sigmas = jnp.asarray([1e5, 50.0, 5.0, 1.0, 0.2, 0.01, 0.0])
  x = sigmas[0] * jax.random.normal(jax.random.key(1), (4, 6))
  draw = jax.jit(lambda x, keys: diffjax.sample(Gaussian(), ALL[name], x, sigmas, key=keys))
  drawn, gradient = jax.value_and_grad(lambda x: draw(x, KEYS).sum())(x)
  assert np.isfinite(drawn) and np.all(np.isfinite(gradient))
  together, alone = draw(x, KEYS), draw(x[2:3], KEYS[2:3])
  assert together.dtype == jnp.float32
  np.testing.assert_allclose(together[2:3], alone, rtol=1e-5, atol=1e-5)
  if name != "dpm2_ancestral":  # a midpoint rule in sigma overshoots on so long a step
    assert np.abs(together).max() < 5 * STD


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpmpp_sde", "dpmpp_3m_sde", "sa_solver 33", "er_sde 3"])
def test_mixture_moments(name, x64):
  """Second and fourth moment of 80 thousand numbers, within four standard errors and the 60 steps' own error."""
  sigmas = grids.exponential(60, 0.01, 20.0)
  x = jax.random.normal(jax.random.key(1), (4, 20_000)) * jnp.hypot(sigmas[0], 0.76)
  x0 = np.asarray(diffjax.sample(Mixture(), ALL[name], x, sigmas, key=KEYS))
  means, std = np.asarray(Mixture().means), Mixture().std
  second = np.mean(means**2) + std**2
  fourth = np.mean(means**4 + 6 * means**2 * std**2) + 3 * std**4
  for power, exact in ((2, second), (4, fourth)):
    values = x0.ravel() ** power
    assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(values.size) + 0.02 * exact


def test_hyper_parameters_compile_nothing_anew():
  traces = []

  def denoiser(x, sigma, cond=None, *, key=None):
    traces.append(None)
    return Gaussian()(x, sigma)

  draw = jax.jit(lambda sampler, x: diffjax.sample(denoiser, sampler, x, KARRAS, key=KEYS))
  pairs = [
    (samplers.Ancestral(samplers.DPMSolver(2), 1.0), samplers.Ancestral(samplers.DPMSolver(2), 0.3)),
    (samplers.DPMppSDE(1.0), samplers.DPMppSDE(0.3)),
    (samplers.SASolver(tau=1.0), samplers.SASolver(tau=0.3, interval=(0.1, 1.0))),
    (samplers.TCD(0.1), samplers.TCD(0.9)),
    (samplers.PredictorCorrector(snr=0.1), samplers.PredictorCorrector(samplers.Euler(0.5), snr=0.2)),
  ]
  for sampler, other in pairs:
    first = draw(sampler, X)
    count = len(traces)
    assert np.abs(draw(other, X) - first).max() > 1e-3
    assert len(traces) == count


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: samplers.ERSDE(4), r"ERSDE has no order 4; choose one of 1 to 3\."),
    (lambda: samplers.SASolver(0), r"SASolver's predictor has no order 0; choose one of 1 to 4\."),
    (lambda: samplers.SASolver(2, 5), r"SASolver's corrector has no order 5; choose one of 1 to 4\."),
    (lambda: samplers.PredictorCorrector(num_corrections=-1), r"num_corrections is -1, but must be a whole number"),
  ],
)
def test_bad_orders_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()
