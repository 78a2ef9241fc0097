import jax
import jax.numpy as jnp
import numpy as np
import pytest
from traced import traced

import diffjax
from diffjax import denoisers, editing, grids, guidance, samplers, schedules

MEAN, COVARIANCE = np.array([[0.2, -0.1]]), np.array([[1.0, 0.8], [0.8, 1.0]])
VARIANCES, AXES = np.linalg.eigh(COVARIANCE)
MASK = jnp.array([[0.0, 1.0]])  # the second number is drawn


@jax.tree_util.Partial
def pair(x, sigma, cond=None, *, key=None):
  """Ideal for two numbers that depend on each other."""
  basis = AXES.astype(x.dtype)
  gains = (VARIANCES / (VARIANCES + sigma**2)).astype(x.dtype)
  return MEAN.astype(x.dtype) + (x - MEAN.astype(x.dtype)) @ (basis * gains[None]) @ basis.T


def inpaint(sampler, sigmas, known, num=4000, seed=0):
  key_start, key_path = jax.random.split(jax.random.key(seed))
  known = jnp.array([[known, 99.0]])
  x = editing.hole(known, MASK) + sigmas[0] * jax.random.normal(key_start, (num, 2))
  return jax.jit(diffjax.sample)(editing.Inpaint(pair, known, MASK), sampler, x, sigmas, key=key_path)


@pytest.mark.parametrize(
  "sampler",
  [samplers.Euler(), samplers.Euler(1.0), samplers.DPMpp2M(), samplers.Heun(), samplers.DDPM()],
  ids=["euler", "ancestral", "dpmpp_2m", "heun", "ddpm"],
)
def test_known_part_is_kept_exactly_and_noised_rightly_on_the_way(sampler):
  sigmas, known = grids.karras(12, 0.01, 20.0), jnp.array([[0.7, 0.0]])
  x = editing.hole(known, MASK) + sigmas[0] * jax.random.normal(jax.random.key(0), (3000, 2))
  denoiser = editing.Inpaint(pair, known, MASK)
  x0, path = jax.jit(diffjax.sample, static_argnames="trajectory")(
    denoiser, sampler, x, sigmas, key=jax.random.key(1), trajectory=True
  )
  np.testing.assert_array_equal(x0[:, 0], jnp.float32(0.7))
  noise = (path[:-1, :, 0] - 0.7) / sigmas[:-1, None]
  assert np.abs(noise.mean(1)).max() < 5 / 3000**0.5
  assert np.abs(noise.std(1) - 1).max() < 5 / 6000**0.5


def moments(drawn):
  return np.array([drawn[:, 1].mean(), drawn[:, 1].std()])


@pytest.mark.slow
def test_repaint_comes_near_the_conditional_distribution_that_replacement_misses():
  """N(mean_2 + 0.8 * (known - mean_1), 1 - 0.8^2): the known part's noise is forgotten only by going over it again."""
  exact = np.array([-0.1 + 0.8 * (1.5 - 0.2), 0.6])
  sigmas = grids.exponential(80, 0.02, 20.0)
  plain = moments(inpaint(samplers.DDPM(), sigmas, 1.5))
  errors = {}
  for jump in (1, 4):
    again = editing.RePaint(samplers.DDPM(), sigmas, jump=jump, resamples=20)
    errors[jump] = np.abs(moments(inpaint(again, sigmas, 1.5)) - exact)
  assert np.abs(plain - exact).max() > 0.3, plain
  assert errors[1].max() < 0.05 and errors[4].max() < 0.05, errors


@pytest.mark.slow
def test_without_resampling_repaint_is_its_sampler():
  sigmas = grids.karras(8, 0.02, 10.0)
  once = editing.RePaint(samplers.DPMpp2M(), sigmas, jump=2, resamples=1)
  too_long = editing.RePaint(samplers.DPMpp2M(), sigmas, jump=8, resamples=3)
  x = 10 * jax.random.normal(jax.random.key(0), (5, 2))
  expected = diffjax.sample(pair, samplers.DPMpp2M(), x, sigmas, key=jax.random.key(1))
  for sampler in (once, too_long):
    np.testing.assert_allclose(diffjax.sample(pair, sampler, x, sigmas, key=jax.random.key(1)), expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "jump", "resamples"), [(9, 1, 3), (9, 2, 3), (9, 4, 2), (10, 3, 5)])
def test_levels_visited_are_those_of_the_paper(steps, jump, resamples):
  """The published way: down step by step, and at each multiple of `jump` from the clean end up by it, r - 1 times."""
  expected, level, left = [], steps - 1, {place: resamples - 1 for place in range(0, steps - jump, jump)}
  while level:
    expected.append((level, level - 1))
    level -= 1
    if left.get(level):
      left[level] -= 1
      level += jump
  sigmas = grids.exponential(steps, 0.1, 10.0)
  visited = []

  class Recorder:
    def init(self, x):
      return ()

    def step(self, denoiser, x, sigma, sigma_next, carry, key):
      jax.debug.callback(lambda *pair: visited.append(pair), sigma, sigma_next, ordered=True)
      return x, carry

  diffjax.sample(pair, editing.RePaint(Recorder(), sigmas, jump, resamples), jnp.zeros((1, 2)), sigmas, key=KEY)
  jax.effects_barrier()
  place = lambda sigma: steps - 1 - int(np.argmin(np.abs(np.asarray(sigmas) - sigma)))
  assert [(place(a), place(b)) for a, b in visited] == expected


KEY = jax.random.key(7)


@pytest.mark.slow
def test_multistep_methods_begin_anew_after_a_jump_and_noise_is_each_samples_own():
  sigmas = grids.karras(8, 0.02, 10.0)
  sampler = editing.RePaint(samplers.DPMpp2M(1.0), sigmas, jump=2, resamples=3)
  known, x = jnp.array([[0.7, 0.0]]), 10 * jax.random.normal(KEY, (5, 2))
  draw = lambda x: diffjax.sample(editing.Inpaint(pair, known, MASK), sampler, x, sigmas, key=KEY)
  assert np.all(np.isfinite(draw(x)))
  np.testing.assert_allclose(draw(x)[:2], draw(x[:2]), atol=1e-5)
  assert np.all(np.isfinite(jax.grad(lambda x: draw(x).sum())(x)))


def test_learned_variance_passes_through():
  class Network:
    def __call__(self, x, c_noise, cond=None, *, key=None):
      return jnp.concatenate([x, 0.2 * jnp.ones_like(x)], -1)

  denoiser = denoisers.NetworkDenoiser(Network(), denoisers.Eps(), schedules.linear())
  wrapped = editing.Inpaint(denoiser, jnp.full((1, 4, 1), 0.5), jnp.array([[1.0, 0, 0, 1]])[..., None])
  denoised = wrapped.predict(jnp.ones((2, 4, 1)), jnp.asarray(1.0))
  x0, fraction = denoised.x0, denoised.variance
  np.testing.assert_array_equal(x0, wrapped(jnp.ones((2, 4, 1)), jnp.asarray(1.0)))
  np.testing.assert_array_equal(x0[:, 1:3], 0.5)
  np.testing.assert_allclose(fraction, 0.6, rtol=1e-6)
  assert editing.Inpaint(pair, 0.0, 0.0).predict(jnp.ones((2, 2)), jnp.asarray(1.0)).variance is None


def test_the_shift_of_guidance_passes_through_where_the_mask_is_one():
  by_label = jax.tree_util.Partial(lambda x, sigma, cond, *, key=None: pair(x, sigma) + cond["label"][:, None])
  guided = guidance.ClassifierFree(by_label, {"label": 0}, 2.0)
  wrapped, known = editing.Inpaint(guided, jnp.array([[0.7, 0.0]]), MASK), jnp.float32(0.7)
  x, cond, sigma = jnp.ones((3, 2)), {"label": jnp.array([1.0, 2.0, 3.0])}, jnp.asarray(1.0)
  denoised = wrapped.predict(x, sigma, cond)
  np.testing.assert_array_equal(denoised.x0, wrapped(x, sigma, cond))
  np.testing.assert_allclose(denoised.x0 - denoised.unguided, jnp.array([[0, 2.0], [0, 4.0], [0, 6.0]]), rtol=1e-6)
  assert editing.Inpaint(pair, 0.0, 0.0).predict(x, sigma).unguided is None
  sampler, sigmas = samplers.MeanGuided(samplers.Euler()), grids.karras(5)
  drawn = diffjax.sample(wrapped, sampler, x, sigmas, key=KEY, cond=cond)
  np.testing.assert_array_equal(drawn[:, 0], known)


def test_no_compilation_for_another_picture_or_mask():
  draw = traced(lambda *arguments, key: diffjax.sample(*arguments, key=key))
  sigmas = grids.karras(5)
  for known, mask in ((0.1, 0.0), (0.9, 1.0)):
    denoiser = editing.Inpaint(pair, jnp.full((1, 2), known), jnp.full((1, 2), mask))
    draw(denoiser, editing.RePaint(samplers.Euler(mask), sigmas, 2, 2), jnp.ones((3, 2)), sigmas, key=KEY)
  assert draw.traces == 1


@pytest.mark.parametrize("options", [{"jump": 0}, {"resamples": 0}])
def test_mistakes(options):
  with pytest.raises(ValueError, match="both must be at least 1"):
    editing.RePaint(samplers.DDPM(), grids.karras(5), **options)
