"""A tiny CLIP with random parameters, and its folder."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import pretrained
from diffjax.networks import CLIP, ImageEncoder, TextEncoder

TOWER = dict(width=8, layers=1, heads=2, features=6)


@pytest.fixture(scope="session")
def tiny_clip():
  """(model, params) of a few hundred numbers."""
  model = CLIP(ImageEncoder(image_size=4, patch=2, **TOWER), TextEncoder(vocab_size=9, context=5, **TOWER))
  images, tokens = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32), jax.ShapeDtypeStruct((1, 5), jnp.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images, tokens)
  rng = np.random.default_rng(0)
  return model, jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
  """By kind of `diffusers_latent.pipeline`: their pipeline, and the folder that it was saved in."""
  from diffusers_latent import pipeline

  @functools.cache
  def get(kind):
    folder = tmp_path_factory.mktemp(f"stable_diffusion_{kind}")
    theirs = pipeline(kind, folder)
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(folder / "saved")
    return theirs, folder / "saved"

  return get


@pytest.fixture
def folder(tiny_clip, tmp_path):
  """A folder with the tiny model in Hugging Face's layout."""
  pretrained.save_clip(tmp_path / "clip", *tiny_clip)
  return tmp_path / "clip"
