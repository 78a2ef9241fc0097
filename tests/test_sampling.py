import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian, Mixture

import diffjax
from diffjax import denoisers, editing, from_config, grids, guidance, samplers, schedules
from diffjax.arrays import expand
from diffjax.randomness import normal, sample_keys

KEY = jax.random.key(0)
SAMPLERS = {
  "euler": samplers.Euler(),
  "euler eta": samplers.Euler(1.0),
  "ddpm": samplers.DDPM(),
  "heun": samplers.Heun(),
  "heun churn": samplers.Churn(samplers.Heun(), 20.0, num_steps=8),
  "dpmpp_2m": samplers.DPMpp2M(),
  "dpmpp_2m_sde": samplers.DPMpp2M(1.0),
}
GRID = grids.karras(8)


def noise(keys, sigmas=GRID):
  return sigmas[0] * normal(keys, (keys.shape[0], 2, 2, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_picture_depends_on_its_own_key_only(name):
  keys = sample_keys(KEY, 4)
  draw = jax.jit(lambda keys: diffjax.sample(Mixture(), SAMPLERS[name], noise(keys), GRID, key=keys))
  whole = draw(keys)
  np.testing.assert_allclose(whole, jnp.concatenate([draw(keys[:2]), draw(keys[2:])]), atol=1e-5)
  np.testing.assert_allclose(whole[::-1], draw(keys[::-1]), atol=1e-5)
  np.testing.assert_array_equal(whole, draw(keys))


def standard(x, sigma, cond=None, *, key=None):
  return x / (1 + expand(sigma, x) ** 2)


def test_jit_takes_a_plain_function_as_a_partial_or_closed_over():
  x, jitted = noise(sample_keys(KEY, 2)), jax.jit(diffjax.sample)
  compiled = jitted._cache_size()  # by other tests
  drawn = [jitted(jax.tree_util.Partial(standard), samplers.Heun(), x, GRID, key=KEY) for _ in range(2)]
  closed = jax.jit(lambda x, sigmas, key: diffjax.sample(standard, samplers.Heun(), x, sigmas, key=key))
  np.testing.assert_array_equal(drawn[0], closed(x, GRID, KEY))
  assert jitted._cache_size() == compiled + 1


@pytest.mark.parametrize("name", ["euler eta", "ddpm", "heun churn", "dpmpp_2m_sde"])
def test_another_key_draws_another_picture(name):
  x = noise(sample_keys(KEY, 4))
  draw = jax.jit(lambda key: diffjax.sample(Mixture(), SAMPLERS[name], x, GRID, key=key))
  assert np.abs(draw(KEY) - draw(jax.random.key(1))).max() > 0.01
  pictures = draw(KEY)
  assert np.abs(pictures[0] - pictures[1]).max() > 0.01


@pytest.mark.parametrize("name", SAMPLERS)
def test_trajectory_and_callback(name):
  done = []
  x = noise(sample_keys(KEY, 3))
  x0, path = diffjax.sample(
    Mixture(), SAMPLERS[name], x, GRID, key=KEY, trajectory=True, callback=lambda step: done.append(int(step))
  )
  jax.effects_barrier()
  assert path.shape == (9, 3, 2, 2, 1)
  np.testing.assert_array_equal(path[0], x)
  np.testing.assert_array_equal(path[-1], x0)
  assert sorted(done) == list(range(1, 9))
  # along the path the noise wears off: the picture's spread is about sigma
  spread = np.asarray(path).std(axis=(1, 2, 3, 4))
  assert spread[0] > 20 and spread[-1] < 1.5


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_is_the_denoiser(name):
  x = noise(sample_keys(KEY, 2))
  x0, path = diffjax.sample(Gaussian(), SAMPLERS[name], x, grids.karras(1), key=KEY, trajectory=True)
  np.testing.assert_allclose(x0, Gaussian()(x, jnp.asarray(80.0)), rtol=1e-5)
  assert path.shape == (2, 2, 2, 2, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_draws_the_data(name):
  keys = sample_keys(KEY, 2000)
  sigmas = grids.karras(60, 0.01, 80.0)
  sampler = samplers.Churn(samplers.Heun(), 10.0, num_steps=60) if name == "heun churn" else SAMPLERS[name]
  pictures = np.asarray(diffjax.sample(Mixture((-1.0, 1.0), 0.2), sampler, noise(keys, sigmas), sigmas, key=keys))
  np.testing.assert_allclose(pictures.mean(), 0, atol=0.05)
  np.testing.assert_allclose((pictures > 0).mean(), 0.5, atol=0.03)
  np.testing.assert_allclose(np.abs(pictures).mean(), 1, atol=0.03)
  np.testing.assert_allclose(np.abs(pictures).std(), 0.2, atol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_float32_from_an_infinite_sigma_to_a_tiny_one(name):
  """In float32, from MAX_SIGMA down to 0.002, the result is that of float64 with the same noise."""
  fixed = lambda keys, shape: jnp.broadcast_to(jnp.linspace(-1, 1, 4).reshape(1, 2, 2, 1), shape)
  sampler = SAMPLERS[name].replace(noise=fixed) if name != "heun" else samplers.Heun()

  def draw():
    sigmas = grids.exponential(40, 0.002, schedules.MAX_SIGMA)
    x = jnp.linspace(-2, 2, 8).reshape(2, 2, 2, 1) * sigmas[0]
    return np.asarray(diffjax.sample(Gaussian(), sampler, x, sigmas, key=KEY))

  narrow = draw()
  with jax.enable_x64(True):
    wide = draw()
  assert (narrow.dtype, wide.dtype) == (np.float32, np.float64)
  np.testing.assert_allclose(narrow, wide, atol=3e-5)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "heun churn"])
@pytest.mark.parametrize("schedule", [schedules.RectifiedFlow(), schedules.zero_terminal_snr(schedules.linear(50))])
def test_zero_terminal_snr(name, schedule):
  """A v or flow network of Gaussian data, started where no signal is left."""
  data = Gaussian(0.3, 0.5)
  prediction = denoisers.Flow() if schedule.scaling is schedules.flow else denoisers.V()

  def network(x_t, t, cond, key):
    sigma = schedule.sigma(t)
    x = x_t / expand(schedule.scaling(sigma), x_t)
    return prediction.from_x0(data(x, sigma), x, sigma, schedule)

  sigmas = grids.uniform_time(20, schedule)
  assert sigmas[0] > 0.99 * schedules.MAX_SIGMA
  keys = sample_keys(KEY, 500)
  sampler = SAMPLERS[name].replace(scaling=schedule.scaling) if name in ("heun", "ddpm") else SAMPLERS[name]
  denoiser = denoisers.NetworkDenoiser(network, prediction, schedule)
  pictures = diffjax.sample(denoiser, sampler, noise(keys, sigmas), sigmas, key=keys)
  assert np.all(np.isfinite(pictures))
  np.testing.assert_allclose(pictures.mean(), 0.3, atol=0.05)
  np.testing.assert_allclose(pictures.std(), 0.5, atol=0.17)


@pytest.mark.parametrize("name", SAMPLERS)
def test_gradients_through_the_trajectory_are_finite(name):
  x = noise(sample_keys(KEY, 2))

  def loss(x, sampler, std):
    denoiser = lambda x, sigma, cond, key: x * std**2 / (std**2 + sigma**2)
    return jnp.square(diffjax.sample(denoiser, sampler, x, GRID, key=KEY)).sum()

  for gradient in jax.tree.leaves(jax.jit(jax.grad(loss, (0, 2)))(x, SAMPLERS[name], 0.5)):
    assert np.all(np.isfinite(gradient)) and np.any(gradient != 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_x64_and_half_precision(name):
  half = lambda x, sigma, cond, key: Gaussian()(x, sigma).astype(jnp.bfloat16)
  draw = lambda x: diffjax.sample(half, SAMPLERS[name], x, grids.karras(3), key=KEY)
  dtype = lambda given: jax.eval_shape(draw, jax.ShapeDtypeStruct((2, 3), given)).dtype
  for wide in (False, True):
    with jax.enable_x64(wide):
      assert [dtype(given) for given in (jnp.float32, jnp.bfloat16, jnp.int32)] == [jnp.float32] * 3
  with jax.enable_x64(True):
    assert dtype(jnp.float64) == jnp.float64


@pytest.mark.slow
@pytest.mark.parametrize("name", [*from_config.SAMPLERS, "restart 2m", "repaint 2m"])
def test_noise_of_more_bits_than_x_does_no_harm(name):
  """Under x64 noise is float64, and may come into what a sampler carries."""
  sigmas = grids.karras(6, sigma_max=5.0)
  method = {
    "restart 2m": lambda: samplers.Restart(samplers.DPMpp2M(1.0)),
    "repaint 2m": lambda: editing.RePaint(samplers.DPMpp2M(1.0), sigmas, jump=2, resamples=2),
  }.get(name) or from_config.SAMPLERS[name]
  with jax.enable_x64(True):
    draw = lambda x: diffjax.sample(Gaussian(), method(), x, sigmas, key=KEY)
    # a loop refuses a state whose precision changes as soon as it is traced
    assert jax.eval_shape(draw, jax.ShapeDtypeStruct((2, 3), jnp.float32)).dtype == jnp.float32


class Counting:
  """A denoiser that counts how often it is traced."""

  def __init__(self):
    self.traced = 0

  def __call__(self, x, sigma, cond, key):
    self.traced += 1
    return Gaussian()(x, sigma)


@pytest.mark.parametrize(
  "make",
  [
    lambda a: samplers.Euler(a),
    lambda a: samplers.DDPM(a),
    lambda a: samplers.DPMpp2M(a),
    lambda a: samplers.Churn(samplers.Heun(), 10 * a, s_tmin=a, s_tmax=10 * a, s_noise=1 + a, num_steps=8),
  ],
  ids=["eta", "fraction", "eta 2m", "churn"],
)
def test_turning_a_hyper_parameter_compiles_nothing(make):
  counting = Counting()
  draw = jax.jit(functools.partial(diffjax.sample, jax.tree_util.Partial(counting)))
  compile_events = []
  x, wider, other = noise(sample_keys(KEY, 2)), 2 * GRID, jax.random.key(5)
  draw(make(0.1), x, GRID, key=KEY)
  traced = counting.traced
  jax.monitoring.register_event_duration_secs_listener(lambda event, *args, **kw: compile_events.append(event))
  try:
    first, second = draw(make(0.3), x, GRID, key=KEY), draw(make(0.9), x, wider, key=other)
  finally:
    jax.monitoring.clear_event_listeners()
  assert counting.traced == traced
  assert not [event for event in compile_events if "compile" in event]
  assert np.abs(first - second).max() > 1e-4


def test_turning_guidance_compiles_nothing():
  counting = Counting()
  draw = jax.jit(lambda guided, x, cond, key: diffjax.sample(guided, samplers.Euler(), x, GRID, key=key, cond=cond))
  x, partial = noise(sample_keys(KEY, 2)), jax.tree_util.Partial(counting)

  def guided(scale, rescale, high, bound):
    guide = guidance.ClassifierFree(partial, {"label": jnp.asarray(10)}, scale, (0.0, high), rescale)
    return guidance.DynamicThreshold(guidance.StaticThreshold(guide, 2 * bound), 0.9, bound)

  draw(guided(1.0, 0.0, 5.0, 1.0), x, {"label": jnp.array([1, 2])}, KEY)
  traced = counting.traced
  draw(guided(3.0, 0.5, 50.0, 1.5), x, {"label": jnp.array([7, 7])}, jax.random.key(4))
  assert counting.traced == traced


def test_the_program_does_not_grow_with_the_steps():
  counting = Counting()
  x = noise(sample_keys(KEY, 2))
  for num_steps in (4, 40):
    diffjax.sample(counting, samplers.Euler(), x, grids.karras(num_steps), key=KEY)
    assert counting.traced <= 2 * (1 if num_steps == 4 else 2)


def test_sampling_maps_over_a_further_axis():
  keys = jax.vmap(lambda key: sample_keys(key, 2))(jax.random.split(KEY, 3))
  draw = lambda keys: diffjax.sample(Mixture(), samplers.Euler(1.0), noise(keys), GRID, key=keys)
  np.testing.assert_allclose(jax.vmap(draw)(keys)[1], draw(keys[1]), atol=1e-5)


def test_cond_reaches_the_denoiser():
  denoiser = lambda x, sigma, cond, key: jnp.zeros_like(x) + expand(cond["mean"], x)
  cond = {"mean": jnp.array([1.0, 2.0])}
  x0 = diffjax.sample(denoiser, samplers.DPMpp2M(), noise(sample_keys(KEY, 2)), GRID, key=KEY, cond=cond)
  np.testing.assert_allclose(x0, jnp.ones((2, 2, 2, 1)) * expand(cond["mean"], x0))


@pytest.mark.parametrize(
  ("sigmas", "says"),
  [
    *((sigmas, "list") for sigmas in ([1.0], [[1.0, 0.0]])),
    *((sigmas, "descend") for sigmas in ([1.0, 0.5], [1.0, 1.0, 0.0], [0.5, 1.0, 0.0])),
    *((sigmas, "finite") for sigmas in ([np.nan, 1.0, 0.0], [1.0, np.nan, 0.0], [np.inf, 1.0, 0.0])),
  ],
)
def test_impossible_grids_are_refused(sigmas, says):
  with pytest.raises(ValueError, match=rf"sigmas must .*{says}"):
    diffjax.sample(Gaussian(), samplers.Euler(), jnp.ones((2, 3)), jnp.asarray(sigmas), key=KEY)


def test_levels_that_merge_in_the_precision_of_the_walk_are_refused():
  """Two grids of the same ends, joined in float64, hold levels that are one number in float32."""
  merging = np.array([80.0, 1.0 + 1e-12, 1.0, 0.0])
  walk = lambda x: diffjax.sample(Gaussian(), samplers.DPMpp2M(), x, merging, key=KEY)
  for refused in (walk, lambda x: editing.ddim_invert(Gaussian(), x, merging)):
    with pytest.raises(ValueError, match=r"(?s)sigmas must .*descend strictly.* in float32"):
      refused(jnp.ones((2, 3)))
  with pytest.raises(ValueError, match=r"(?s)sigmas must ascend strictly .* in float32"):
    diffjax.likelihood.log_likelihood(Gaussian(), jnp.ones((2, 3)), merging[-2::-1])
  with jax.enable_x64(True):
    assert np.isfinite(walk(jnp.ones((2, 3), jnp.float64))).all()
    with pytest.raises(ValueError, match="in float32"):
      walk(jnp.ones((2, 3), jnp.float32))


@pytest.mark.parametrize(
  ("arguments", "says"),
  [
    (dict(x=[1.0, 2.0]), r"x must be an array \[B, ...\].*got list"),
    (dict(x=1.0), r"x must be an array \[B, ...\].*got float"),
    (dict(x=jnp.ones(())), r"x must be an array \[B, ...\].*got \(\)"),
    (dict(sampler=samplers.Heun), r"sampler is the class Heun; pass an instance, Heun\(\)"),
    (dict(sampler="euler"), r"sampler is 'euler'; pass an object such as diffjax\.samplers\.Euler\(\)"),
    (dict(denoiser=lambda x, sigma, cond, key: x[:, :1]), r"returned x0 \(2, 1\) for x \(2, 3\)"),
    (dict(denoiser=lambda x, sigma, cond, key: (x, x)), r"returned x0 tuple for x \(2, 3\)"),
    (dict(key=None), "key is None, but must be a key, or one per sample"),
    (dict(key=0), "key is 0, but must be a key, or one per sample"),
  ],
)
def test_wrong_arguments_are_refused(arguments, says):
  with pytest.raises(ValueError, match=says):
    diffjax.sample(
      **dict(denoiser=Gaussian(), sampler=samplers.Heun(), x=jnp.ones((2, 3)), key=KEY) | arguments, sigmas=GRID
    )


def bound(network):
  return denoisers.NetworkDenoiser(network, denoisers.V(), schedules.linear())


class Keyless(nn.Module):
  @nn.compact
  def __call__(self, x, c_noise, cond=None):
    return x


@pytest.mark.parametrize(
  ("denoiser", "says"),
  [
    (lambda x, sigma, cond: x, r"denoiser takes \(x, sigma, cond\), but is called with \(x, sigma, cond, key=keys\)"),
    (
      lambda x, sigma, *, key: x,
      r"denoiser takes \(x, sigma, \*, key\), but is called with \(x, sigma, cond, key=keys\)",
    ),
    (None, r"denoiser is None; pass a function that takes \(x, sigma, cond, key=keys\)"),
    (bound(lambda x, t, cond: x), r"network takes \(x, t, cond\), but is called with \(x, c_noise, cond, key=key\)"),
    (bound(denoisers.BoundNetwork({}, Keyless())), "module takes .*, but is called with .*x, c_noise, cond, key=key"),
  ],
)
def test_functions_that_do_not_take_the_arguments_are_refused(denoiser, says):
  with pytest.raises(TypeError, match=says):
    diffjax.sample(denoiser, samplers.Heun(), jnp.ones((2, 3)), GRID, key=KEY)


@pytest.mark.parametrize(("key", "says"), [(KEY, r"key has shape \(\)"), (None, "key is None")])
@pytest.mark.parametrize("name", ["euler", "euler eta", "dpmpp_2m_sde"])
def test_a_step_with_one_key_for_the_batch_is_refused(name, key, says):
  sampler, x = SAMPLERS[name], jnp.ones((2, 3))
  with pytest.raises(ValueError, match=says + ", but must be an array of one key per sample"):
    sampler.step(Gaussian(), x, jnp.asarray(2.0), jnp.asarray(1.0), sampler.init(x), key)


@pytest.mark.slow
@pytest.mark.parametrize("name", from_config.SAMPLERS)
def test_every_sampler_under_vmap_and_pmap_with_gradients_by_the_start_and_the_grid(name, x64):
  sampler, keys = from_config.SAMPLERS[name](), jax.vmap(lambda key: sample_keys(key, 2))(jax.random.split(KEY, 3))

  def pictures_and_slopes(x, keys):
    def total(x, sigmas):
      drawn = diffjax.sample(Mixture(), sampler, x, sigmas, key=keys)
      return jnp.sin(drawn).sum(), drawn

    (_, drawn), slopes = jax.value_and_grad(total, (0, 1), has_aux=True)(x, jnp.asarray(GRID, x.dtype))
    return drawn, *slopes

  x = jax.vmap(noise)(keys)
  expected = jax.jit(pictures_and_slopes)(x[1], keys[1])
  for values in expected:
    assert np.all(np.isfinite(values)) and np.any(values != 0)
  mapped = jax.pmap(jax.vmap(pictures_and_slopes))(x[None], keys[None])  # three on the one device
  for one, each in zip(expected, mapped):
    np.testing.assert_allclose(each[0, 1], one, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["heun", "dpmpp_2m", "dpmpp_3m", "er_sde", "sa_solver"])
def test_the_gradient_by_the_grid_is_that_of_finite_differences(name, x64):
  x, sigmas = noise(sample_keys(KEY, 2)), grids.karras(5)
  value = jax.jit(lambda s: jnp.square(diffjax.sample(Mixture(), from_config.SAMPLERS[name](), x, s, key=KEY)).sum())
  gradient = jax.grad(value)(sigmas)
  for i, change in enumerate(1e-4 * sigmas[:-1]):
    difference = (value(sigmas.at[i].add(change)) - value(sigmas.at[i].add(-change))) / (2 * change)
    np.testing.assert_allclose(gradient[i], difference, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m"])
def test_stopping_above_zero(name):
  """x at final_sigma is where the whole trajectory passes, and follows the data's law at that level."""
  sampler, sigmas = SAMPLERS[name], grids.karras(40, 0.01, 20.0)
  x = sigmas[0] * jax.random.normal(jax.random.key(2), (4000, 1))
  stop = float(sigmas[20])
  _, path = diffjax.sample(Gaussian(0.3, 0.5), sampler, x, sigmas, key=KEY, trajectory=True)
  early, part = diffjax.sample(Gaussian(0.3, 0.5), sampler, x, sigmas, key=KEY, final_sigma=stop, trajectory=True)
  np.testing.assert_array_equal(early, path[20])
  np.testing.assert_array_equal(part, path[:21])
  between = diffjax.sample(Gaussian(0.3, 0.5), sampler, x, sigmas, key=KEY, final_sigma=0.7)
  np.testing.assert_allclose([between.mean(), between.std()], [0.3, np.hypot(0.5, 0.7)], atol=0.05)
  cut = grids.stop_at(sigmas, 0.7)
  jitted = jax.jit(lambda x, cut: diffjax.sample(Gaussian(0.3, 0.5), sampler, x, cut, key=KEY, final_sigma=0.7))
  np.testing.assert_allclose(jitted(x, cut), between, rtol=1e-4, atol=1e-5)
  with pytest.raises(ValueError, match=r"final_sigma is 30\.0, but must lie between 0 and"):
    diffjax.sample(Gaussian(0.3, 0.5), sampler, x, sigmas, key=KEY, final_sigma=30.0)
  with pytest.raises(ValueError, match=r"final_sigma is '1', but must be a Python number"):
    diffjax.sample(Gaussian(0.3, 0.5), sampler, x, sigmas, key=KEY, final_sigma="1")
