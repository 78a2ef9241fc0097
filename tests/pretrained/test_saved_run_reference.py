"""The miniature of Stable Diffusion, saved as a folder: diffusers opens it and draws the same pictures.

The networks are those of configs/colors_*.py, with random weights in all of their layers.
"""

import importlib.util
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from diffjax import from_config, pretrained  # noqa: E402 - after the skips
from diffjax.codecs import Latents  # noqa: E402
from diffjax.conditioning import Text, TextTower  # noqa: E402
from diffjax.pretrained.schedulers.writing import to_diffusers  # noqa: E402
from diffjax.training.objectives.denoising import Frozen  # noqa: E402

PROMPTS = ["a red three on white", "on black, a blue seven"]
NOISE = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)


def config_of(name):
  path = pathlib.Path(__file__).parents[2] / "configs" / f"{name}.py"
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config()


def moved(params, seed, by):
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  return jax.tree.unflatten(tree, [leaf + by * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys)])


@pytest.fixture(scope="module")
def miniature():
  """The miniature's pipeline, as its run makes it."""
  key = jax.random.key(0)
  images, text, latent = map(config_of, ("colors_autoencoder", "colors_clip", "colors_latent"))
  params = moved(from_config.autoencoder.initial_params(images, key), 1, 0.02)
  codec = Latents(params, jnp.float32(0.7), jnp.float32(0.0), from_config.autoencoder.module(images))
  tokenizer, module = from_config.clip.tokenizer(text), from_config.clip.module(text).text.clone(features=None)
  encoder = module.init(key, jnp.zeros((1, tokenizer.length), jnp.int32))
  frozen = Frozen(codec, Text((TextTower(encoder, module, tokenizer),), dropout=0.1))
  return from_config.pipeline(latent, moved(from_config.latent.initial_params(latent, key, frozen), 2, 0.05), frozen)


@pytest.fixture(scope="module")
def saved(miniature, tmp_path_factory):
  folder = tmp_path_factory.mktemp("saved")
  pretrained.save_pipeline(folder, miniature)
  return folder


SCHEDULERS = {
  "DPMSolverMultistepScheduler": {"use_karras_sigmas": True},  # as it is saved
  "EulerDiscreteScheduler": {"use_karras_sigmas": True},
  "DDIMScheduler": {"clip_sample": False, "timestep_spacing": "trailing"},
}


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_diffusers_draws_the_same_pictures(saved, scheduler, tmp_path):
  folder = shutil.copytree(saved, tmp_path / "model")
  theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder)
  theirs.set_progress_bar_config(disable=True)
  saved_as = theirs.scheduler.config
  assert saved_as._class_name == "DPMSolverMultistepScheduler" and saved_as.use_karras_sigmas
  theirs.scheduler = getattr(diffusers, scheduler).from_config(saved_as, **SCHEDULERS[scheduler])
  theirs.scheduler.save_pretrained(folder / "scheduler")
  latents = torch.from_numpy(np.moveaxis(NOISE, -1, 1).copy())
  asked = dict(num_inference_steps=10, guidance_scale=2.0, latents=latents, output_type="np")
  expected = theirs(PROMPTS, **asked).images
  ours = pretrained.load_pipeline(folder).draw(2, prompt=PROMPTS, steps=10, guidance_scale=2.0, noise=NOISE)
  assert expected.shape == ours.images.shape == (2, 32, 32, 3)
  assert expected.std() > 0.05 and np.abs(expected[0] - expected[1]).max() > 0.05
  assert np.abs(ours.images - 255 * expected).max() <= 2.5


def test_what_diffusers_cannot_express_is_refused():
  for schedule, prediction, says in (
    ({"name": "edm"}, {"name": "v"}, "no schedule .*edm.*; only linear, scaled_linear, squared_cosine"),
    ({"name": "linear", "shift": 3.0}, {"name": "v"}, "without a shift"),
    ({"name": "linear"}, {"name": "edm"}, "no prediction .*edm.*; use eps, v, x0"),
  ):
    with pytest.raises(ValueError, match=says):
      to_diffusers(schedule, prediction)


def test_a_written_schedule_is_read_back():
  config = config_of("colors_latent")
  published = pretrained.from_diffusers(to_diffusers(config.schedule, config.prediction))
  own = from_config.schedule(config)
  t = np.linspace(0, 999, 50)
  np.testing.assert_allclose(published.schedule.sigma(t), own.sigma(t), rtol=1e-6)
  assert type(published.prediction) is type(from_config.prediction(config))
