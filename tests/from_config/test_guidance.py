"""Ways of CLIP guidance by name: what a step of each adds, as its paper has it."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import from_config, guidance, randomness, samplers
from diffjax.codecs import Pixels

PATH = pathlib.Path(__file__).parents[2] / "configs" / "guidance.py"
X = jax.random.normal(jax.random.key(0), (3, 4, 4, 1))
KEYS = randomness.sample_keys(jax.random.key(1), 3)
SIGMA, NEXT = jnp.float32(3.0), jnp.float32(1.0)
ALPHA, ALPHA_NEXT = (1 / np.sqrt(1 + sigma**2) for sigma in (3.0, 1.0))
SLOPE = 0.3


def denoiser(x, sigma, cond=None, *, key=None):
  return 0.5 * x


def energy(x0, key=None):
  return SLOPE * x0.sum((1, 2, 3))


def preset(name):
  spec = importlib.util.spec_from_file_location("presets", PATH)
  presets = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(presets)
  return presets.get_config(name)


def moved(name, **changes):
  """What guidance adds to where Euler's step from sigma 3 to 1 ends, in coordinates x = x0 + sigma * noise."""
  config = preset(name)
  config.update(changes)
  guided = from_config.guidance.guided(config, jax.tree_util.Partial(denoiser), jax.tree_util.Partial(energy), Pixels())
  sampler = from_config.guidance.sampler(config, guided, samplers.Euler())
  end, plain = (
    method.step(model, X, SIGMA, NEXT, method.init(X), KEYS)[0]
    for method, model in ((sampler, guided), (samplers.Euler(), denoiser))
  )
  return np.asarray(end - plain)


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    # x_t = alpha x moves by -scale * grad_{x_t} = -scale * grad_x / alpha, and x by 1 / alpha_next of that
    ("dps", -0.5 * SLOPE / ALPHA / ALPHA_NEXT),
    # the same by rho_t = scale * alpha
    ("freedom", -0.5 * SLOPE / ALPHA_NEXT),
    # 0.25 grad_{x_t} / alpha_t, and four steps of 2 along the gradient at x0
    ("tfg", -0.25 * 0.5 * SLOPE / ALPHA**2 - 4 * 2 * SLOPE),
    # the gradient at x0, past the model
    ("mpgd", -SLOPE),
    # the score moves: x0 by -200 sigma^2 grad_x, of which Euler's step takes 1 - 1 / 3
    ("universal", -200 * 9 * 0.5 * SLOPE * (2 / 3)),
  ],
)
def test_a_step_of_each_preset(name, expected):
  np.testing.assert_allclose(moved(name, repeats=1), np.full(X.shape, expected), rtol=1e-4)


def test_training_free_guidance_of_the_mean_alone():
  """rho 0 leaves four steps of mu = 2 along the gradient at x0."""
  options = {**preset("tfg").options, "rho": 0.0}
  np.testing.assert_allclose(moved("tfg", repeats=1, options=options), np.full(X.shape, -8 * SLOPE), rtol=1e-4)


def test_disco_clamps_the_gradient_for_the_noisy_picture():
  """The root mean square of the score's move is at most 0.05: x0 moves by sigma^2 * alpha of it."""
  root_mean_square = np.sqrt(np.square(moved("disco", penalties={})).mean((1, 2, 3)))
  np.testing.assert_allclose(root_mean_square, 0.05 * 9 * ALPHA * (2 / 3), rtol=1e-4)


def test_time_travel_within_its_interval():
  config = preset("freedom")
  guided = guidance.EnergyGuidance(denoiser, energy, position="mean")
  sampler = from_config.guidance.sampler(config, guided, samplers.Euler())
  assert (sampler.repeats, sampler.interval) == (10, (3.44, 25.7))


def test_configs_of_another_kind_are_refused(tiny):
  with pytest.raises(ValueError, match="the config has no 'data'"):
    from_config.check(preset("disco"))
  with pytest.raises(ValueError, match="guidance config has no 'views'"):
    from_config.guidance.clip_energy(tiny(), None, None, None, 1.0)
  config = tiny()
  config.parallel = "fdsp"
  with pytest.raises(ValueError, match="did you mean 'fsdp'"):
    from_config.check(config)
