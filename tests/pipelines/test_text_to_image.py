"""A small latent diffusion model with random weights: what depends on what, and what compiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_pipeline import Recommended

from diffjax import denoisers, guidance, schedules
from diffjax.cluster.layouts import Whole
from diffjax.codecs import Latents
from diffjax.conditioning import Text, TextTower
from diffjax.data import train_tokenizer
from diffjax.networks import AutoencoderKL, TextEncoder, TextUNet
from diffjax.pipelines import Pipeline

pytestmark = pytest.mark.slow

TEXTS = ["a red three on white", "a blue seven on black"]


class Defaults(Recommended):
  def guided(self, denoiser, null_cond=None, scale=None):
    return denoiser if scale is None else guidance.ClassifierFree(denoiser, null_cond, scale)


def noisy(params, seed):
  """Parameters in which nothing is zero."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  return tree.unflatten([a + 0.05 * jax.random.normal(key, a.shape) for a, key in zip(leaves, keys)])


@pytest.fixture(scope="module")
def pipeline():
  tokenizer = train_tokenizer(TEXTS, 560, length=12)
  encoder = TextEncoder(vocab_size=tokenizer.vocab_size, width=8, layers=1, heads=2, context=12)
  unet = TextUNet(
    widths=(8, 16), layers_per_level=1, attending=(False, True), depth=(1, 1), num_heads=(2, 2),
    only_cross_attention=(False, False), num_groups=4,
  )  # fmt: skip
  autoencoder = AutoencoderKL(widths=(8, 8), layers_per_level=1, num_groups=4)
  latents, context = jnp.zeros((1, 8, 8, 4)), jnp.zeros((1, 12, 8))
  text_params = encoder.init(jax.random.key(0), jnp.zeros((1, 12), jnp.int32))
  params = noisy(unet.init(jax.random.key(1), latents, jnp.zeros(1), {"context": context}), 1)
  codec = Latents(noisy(autoencoder.init(jax.random.key(2), jnp.zeros((1, 16, 16, 3))), 2), 0.5, 0.1, autoencoder)
  schedule = schedules.scaled_linear()
  denoiser = denoisers.NetworkDenoiser(denoisers.BoundNetwork(params, unet), denoisers.Eps(), schedule)
  return Pipeline(
    denoiser, (16, 16, 3), Defaults(guidance_scale=3.0), codec, Text((TextTower(text_params, encoder, tokenizer),)),
    layout=Whole,
  )  # fmt: skip


def test_an_image_depends_on_its_own_seed_and_prompt(pipeline):
  both = pipeline.draw(4, prompt=TEXTS * 2, steps=3, floats=True).images
  assert np.abs(both[0] - both[1]).max() > 1e-3
  apart = pipeline.draw(4, prompt=TEXTS * 2, steps=3, floats=True, batch_size=2).images
  np.testing.assert_allclose(apart, both, atol=1e-5)
  same = pipeline.draw(4, prompt=TEXTS[0], steps=3, floats=True).images
  np.testing.assert_allclose(same[[0, 2]], both[[0, 2]], atol=1e-5)


def test_guidance_away_from_the_prompt_itself_is_none(pipeline):
  asked = dict(prompt=TEXTS[0], steps=3, floats=True)
  plain = pipeline.draw(2, **asked, guidance_scale=1.0).images
  np.testing.assert_allclose(
    pipeline.draw(2, **asked, guidance_scale=4.0, negative_prompt=TEXTS[0]).images, plain, atol=1e-4
  )
  assert np.abs(pipeline.draw(2, **asked, guidance_scale=4.0).images - plain).max() > 1e-3


def test_what_is_not_masked_stays_pixel_by_pixel(pipeline):
  image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
  mask = np.zeros((16, 16), bool)
  mask[3:9, 5:11] = True
  drawn = pipeline.draw(2, prompt=TEXTS[0], steps=3, init_image=image, mask=mask).images
  np.testing.assert_array_equal(drawn[:, ~mask], np.stack([image[~mask]] * 2))
  assert np.abs(drawn[:, mask].astype(int) - image[mask]).mean() > 1


def test_nothing_a_person_turns_compiles_again_and_a_size_does_once(pipeline, compilations):
  image = np.zeros((2, 16, 16, 3), np.uint8)
  mask = np.ones((2, 16, 16), bool)
  mask[0, 3, 3] = mask[1, 5, 5] = False

  def draw(which, **asked):
    text = dict(prompt=TEXTS[which], negative_prompt=["low quality", "noise"][which], guidance_scale=2.0 + which)
    return pipeline.draw(2, steps=3, seed=which, **text, **asked)

  for asked in (
    lambda which: {},
    lambda which: dict(init_image=image[which], strength=0.7),
    lambda which: dict(init_image=image[which], mask=mask[which]),
    lambda which: dict(size=(24, 16)),
  ):
    draw(0, **asked(0))
    before = compilations()
    draw(1, **asked(1))
    assert compilations() == before
  draw(0, size=(16, 24))
  assert compilations() > before  # compilations do get counted
