"""Multistep samplers: the orders their papers claim, their starts, what they cost and what they refuse."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian, Mixture

import diffjax
from diffjax import from_config, grids, samplers, schedules
from diffjax.from_config import construction
from diffjax.samplers import adams

MULTISTEP = {
  "dpmpp_3m": samplers.DPMpp3M(),
  "unipc 1": samplers.UniPC(1, "bh1"),
  "unipc": samplers.UniPC(),
  "lms": samplers.LMS(),
  "pndm": samplers.PNDM(),
  "pndm skip": samplers.PNDM(skip_prk=True),
  "ipndm": samplers.IPNDM(),
  "deis": samplers.DEIS(),
  "deis time": samplers.DEIS(coordinate="time"),
}
IN_SIGMA = samplers.PNDM(schedules.SigmaAsTime())


def uniform_sigma(num_steps, low, high):
  return grids.end_in_zero(jnp.linspace(high, low, num_steps))


# From far above the data the first steps, of lower order, err too little to be seen.
GRIDS = {"exponential": (grids.exponential, 0.05, 1000.0), "uniform sigma": (uniform_sigma, 1.0, 20.0)}
ORACLES = {"gaussian": Gaussian(), "mixture": Mixture()}


@functools.cache
def exact(oracle, grid):
  """(start, x0): the last step to zero is the denoiser."""
  _, low, high = GRIDS[grid]
  start = np.linspace(-2.5, 2.5, 5)[:, None] * high
  return start, ORACLES[oracle](jnp.asarray(ORACLES[oracle].flow(start, high, low)), jnp.asarray(low))


@jax.jit
def advance(sampler, oracle, x, sigma, sigma_next, carry):
  return sampler.step(oracle, x, sigma, sigma_next, carry, jax.random.split(jax.random.key(0), x.shape[0]))


def rate(sampler, oracle, grid, num_steps):
  """Order seen between num_steps and twice as many, with the two errors; one step is compiled once for both."""
  make, low, high = GRIDS[grid]
  start, expected = exact(oracle, grid)
  errors = []
  for num in (num_steps, 2 * num_steps):
    x = jnp.asarray(start)
    carry = sampler.init(x)
    for sigma, sigma_next in itertools.pairwise(np.asarray(make(num + 1, low, high))[:-1]):
      x, carry = advance(sampler, ORACLES[oracle], x, sigma, sigma_next, carry)
    errors.append(float(jnp.abs(ORACLES[oracle](x, jnp.asarray(low)) - expected).max()))
  return np.log2(errors[0] / errors[1]), errors


def case(sampler, order, oracle="mixture", slow=False):
  return pytest.param(sampler, order, oracle, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(
  ("sampler", "order", "oracle"),
  [
    case(samplers.DPMpp3M(), 3),
    case(samplers.DPMpp3M(shipped=True), 2),
    case(samplers.UniPC(1, "bh1"), 2),
    case(samplers.UniPC(2, "bh2"), 3),
    case(samplers.UniPC(3, "bh2"), 4),
    case(samplers.LMS(4), 4),
    case(samplers.DEIS(3), 3),
    case(samplers.DEIS(3, "time"), 3),
    case(samplers.DPMpp3M(), 3, "gaussian", slow=True),
    case(samplers.DPMpp3M(shipped=True), 2, "gaussian", slow=True),
    case(samplers.UniPC(1, "bh2"), 2, slow=True),
    case(samplers.UniPC(2, "bh1"), 3, slow=True),
    case(samplers.UniPC(3, "bh1"), 4, slow=True),
    case(samplers.UniPC(3, "bh2"), 4, "gaussian", slow=True),
    *(case(samplers.LMS(order), order, slow=True) for order in (1, 2, 3)),
    *(case(samplers.DEIS(order), order, slow=True) for order in (1, 2, 4)),
    *(case(samplers.DEIS(order, "time"), order, slow=True) for order in (2, 4)),
    case(samplers.LMS(4), 4, "gaussian", slow=True),
    case(samplers.DEIS(3, "time"), 3, "gaussian", slow=True),
  ],
)
def test_order_of_convergence(sampler, order, oracle, x64):
  seen, errors = rate(sampler, oracle, "exponential", 160 if order == 4 else 320)
  assert abs(seen - order) < 0.25, (seen, errors)


@pytest.mark.parametrize(
  ("sampler", "grid", "order"),
  [
    (samplers.IPNDM(4), "uniform sigma", 4),
    (IN_SIGMA, "uniform sigma", 4),
    (samplers.IPNDM(4), "exponential", 2),
    (samplers.PNDM(), "exponential", 2),
    pytest.param(samplers.IPNDM(2), "uniform sigma", 2, marks=pytest.mark.slow),
    pytest.param(samplers.IPNDM(3), "uniform sigma", 3, marks=pytest.mark.slow),
    pytest.param(samplers.PNDM(skip_prk=True), "uniform sigma", 4, marks=pytest.mark.slow),
    pytest.param(samplers.PNDM(skip_prk=True), "exponential", 2, marks=pytest.mark.slow),
  ],
)
@pytest.mark.parametrize("oracle", ["mixture", pytest.param("gaussian", marks=pytest.mark.slow)])
def test_pseudo_methods_have_their_order_on_equal_steps_and_two_on_others(sampler, grid, order, oracle, x64):
  seen, errors = rate(sampler, oracle, grid, 320)
  assert abs(seen - order) < 0.25, (seen, errors)


def test_weights_on_equal_steps_are_those_of_adams_and_bashforth(x64):
  places = lambda num: jnp.asarray([*range(0, -num, -1), *[jnp.inf] * (4 - num)], jnp.float64)
  weights = lambda num: adams.integrals(places(num), jnp.asarray(0.0), jnp.asarray(1.0))
  np.testing.assert_allclose(24 * weights(4), [55, -59, 37, -9], rtol=1e-13)
  np.testing.assert_allclose(12 * weights(3), [23, -16, 5, 0], rtol=1e-13)
  np.testing.assert_allclose(2 * weights(2), [3, -1, 0, 0], rtol=1e-13)
  np.testing.assert_allclose(weights(1), [1, 0, 0, 0], rtol=1e-13)


def test_integrals_of_lagrange_polynomials_are_exact(x64):
  """Any four places: a cubic is integrated as its primitive says."""
  places = jnp.asarray([3.0, 3.7, 5.1, 9.0])
  cubic, primitive = (lambda s: 1 + 2 * s - s**2 + s**3 / 2), (lambda s: s + s**2 - s**3 / 3 + s**4 / 8)
  weights = adams.integrals(places, jnp.asarray(3.0), jnp.asarray(2.2))
  np.testing.assert_allclose((weights * cubic(places)).sum(), primitive(2.2) - primitive(3.0), rtol=1e-12)


@pytest.mark.slow
def test_a_place_that_comes_twice_counts_once(x64):
  places = jnp.asarray([3.0, 5.0, 5.0, 9.0, 3.0])
  once = adams.lagrange(places[jnp.array([0, 1, 3])], jnp.asarray([2.0, 4.0]))
  np.testing.assert_allclose(
    adams.lagrange(places, jnp.asarray([2.0, 4.0])),
    once[jnp.array([0, 1, 1, 2, 0])] * np.array([1, 1, 0, 1, 0])[:, None],
  )


@pytest.mark.parametrize("schedule", [schedules.linear(), schedules.scaled_linear()])
def test_levels_outside_a_discrete_schedule_share_its_end(schedule):
  method = samplers.DEIS(3, "time", schedule)
  x = 80 * jax.random.normal(jax.random.key(0), (50, 2))
  x0 = diffjax.sample(Gaussian(), method, x, grids.karras(40), key=jax.random.key(1))
  plain = diffjax.sample(Gaussian(), samplers.DEIS(3), x, grids.karras(40), key=jax.random.key(1))
  np.testing.assert_allclose(x0, plain, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", MULTISTEP)
def test_first_step_is_euler_where_it_has_no_other_start(name, x64):
  x = jnp.linspace(-3, 3, 4)[:, None]
  levels = jnp.asarray(2.0), jnp.asarray(1.5)
  keys = jax.random.split(jax.random.key(0), 4)
  sampler, euler = MULTISTEP[name], samplers.Euler()
  drawn, _ = sampler.step(Mixture(), x, *levels, sampler.init(x), keys)
  first_order, _ = euler.step(Mixture(), x, *levels, euler.init(x), keys)
  if name.startswith("pndm"):
    assert jnp.abs(drawn - first_order).max() > 1e-3
    return
  np.testing.assert_allclose(drawn, first_order, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
  ("sampler", "calls"),
  [
    (samplers.DPMpp3M(), 8),
    (samplers.UniPC(), 8),
    (samplers.LMS(), 8),
    (samplers.IPNDM(), 8),
    (samplers.DEIS(), 8),
    (samplers.PNDM(), 8 + 3 * 3),
    (samplers.PNDM(skip_prk=True), 8 + 1),
  ],
)
def test_network_calls_of_eight_steps(sampler, calls):
  counted = []

  def denoiser(x, sigma, cond=None, *, key=None):
    jax.debug.callback(lambda: counted.append(None))
    return 0.5 * x

  diffjax.sample(denoiser, sampler, jnp.ones((2, 3)), grids.karras(8), key=jax.random.key(0)).block_until_ready()
  jax.effects_barrier()
  assert len(counted) == calls


GRID = grids.karras(8)
KEYS = jax.random.split(jax.random.key(3), 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", MULTISTEP)
def test_under_jit_vmap_and_grad(name):
  x = 80 * jax.random.normal(jax.random.key(1), (4, 3))
  calls = []

  @jax.jit
  def draw(x, sampler, sigmas):
    calls.append(None)
    return diffjax.sample(Mixture(), sampler, x, sigmas, key=KEYS[: x.shape[0]])

  whole = draw(x, MULTISTEP[name], GRID)
  draw(x, jax.tree.map(lambda leaf: leaf * 1.01, MULTISTEP[name]), GRID * 1.01)
  assert len(calls) == 1  # hyper-parameters and grid are traced
  each = jax.vmap(lambda x: draw(x[None], MULTISTEP[name], GRID)[0])(x)
  np.testing.assert_allclose(whole, each, atol=2e-5)

  def loss(x, sigma_max):
    return jnp.square(diffjax.sample(Mixture(), MULTISTEP[name], x, GRID * sigma_max, key=KEYS)).sum()

  for gradient in jax.jit(jax.grad(loss, (0, 1)))(x, 1.0):
    assert np.all(np.isfinite(gradient)) and np.any(gradient != 0)


@pytest.mark.parametrize("name", MULTISTEP)
def test_float32_from_an_infinite_sigma_to_a_tiny_one(name):
  def draw():
    sigmas = grids.exponential(40, 0.002, schedules.MAX_SIGMA)
    x = jnp.linspace(-2, 2, 8).reshape(2, 2, 2, 1) * sigmas[0]
    return np.asarray(diffjax.sample(Gaussian(), MULTISTEP[name], x, sigmas, key=jax.random.key(0)))

  narrow = draw()
  with jax.enable_x64(True):
    wide = draw()
  assert (narrow.dtype, wide.dtype) == (np.float32, np.float64)
  np.testing.assert_allclose(narrow, wide, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in MULTISTEP if name not in ("deis time", "unipc 1")])
def test_long_first_step_of_a_flow(name):
  """From an infinite sigma to 19 at once: all but PNDM, whose start is a rule in sigma, err less than half of Euler."""
  sigmas = grids.uniform_time(20, schedules.RectifiedFlow())
  start = np.linspace(-2.5, 2.5, 5)[:, None] * float(sigmas[0])
  exact = Gaussian()(Gaussian().flow(start, float(sigmas[0]), float(sigmas[-2])), sigmas[-2])

  def error(sampler):
    x0 = jax.jit(diffjax.sample)(Gaussian(), sampler, jnp.asarray(start, jnp.float32), sigmas, key=jax.random.key(0))
    return np.abs(x0 - exact).max()

  assert (error(MULTISTEP[name]) < error(samplers.Euler()) / 2) == (not name.startswith("pndm"))


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("unipc", {"order": 4}, "UniPC has no order 4; choose one of 1 to 3."),
    ("unipc", {"kind": "bh3"}, "UniPC has no kind 'bh3'; choose one of bh1, bh2."),
    ("lms", {"order": 0}, "LMS has no order 0; choose one of 1 to 4."),
    ("lms", {"order": 2.5}, "LMS has no order 2.5; choose one of 1 to 4."),
    ("lms", {"order": 2.0}, "LMS has no order 2.0; choose one of 1 to 4."),
    ("unipc", {"order": True}, "UniPC has no order True; choose one of 1 to 3."),
    ("ipndm", {"order": 5}, "IPNDM has no order 5; choose one of 1 to 4."),
    ("deis", {"order": 7}, "DEIS has no order 7; choose one of 1 to 4."),
    ("deis", {"coordinate": "rho"}, "DEIS has no coordinate 'rho'; choose one of log_rho, time."),
  ],
)
def test_bad_options_are_refused_when_built(name, options, message):
  with pytest.raises(ValueError) as error:
    construction.construct(from_config.SAMPLERS, "sampler", {"name": name, **options})
  assert str(error.value) == message


def test_build_gives_the_configs_schedule(tiny):
  config = tiny()
  config.schedule = {"name": "rectified_flow"}
  for name, options in (("pndm", {}), ("deis", {"coordinate": "time"})):
    assert from_config.sampler(config, name, **options).schedule == schedules.RectifiedFlow()
