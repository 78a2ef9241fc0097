"""Drawing with any codec: pictures are the decoded samples of the model's own x0, whatever they were asked as."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Halved

import diffjax
from diffjax import grids, samplers, struct
from diffjax.arrays import expand
from diffjax.cluster import devices
from diffjax.cluster.layouts import Replicated
from diffjax.codecs import to_uint8
from diffjax.pipelines import Pipeline
from diffjax.pipelines.drawing import Programs, draw_batches


@struct.dataclass
class Gaussian:
  """The denoiser of x0 ~ N(mean, 0.1^2)."""

  mean: float = 0.3

  def __call__(self, x, sigma, cond=None, *, key=None):
    variance = jnp.square(expand(sigma, x))
    return (0.01 * x + variance * self.mean) / (0.01 + variance)


@dataclasses.dataclass
class Recommended:
  steps: int = 6
  guidance_scale: float = 1.0
  batch_size: int = 256

  def grid(self, num_steps, name=None):
    return grids.karras(num_steps, 0.01, 10.0)

  def start_std(self, sigma):
    return sigma

  def sampler(self, name, steps, /, **options):
    return samplers.Heun()

  def guided(self, denoiser, null_cond=None, scale=None):
    return denoiser


PIPELINE = Pipeline(Gaussian(), (8, 8, 1), Recommended(), codec=Halved())


def test_pictures_are_the_decoded_samples():
  drawn = PIPELINE.draw(5, floats=True, trajectory=True, batch_size=2)
  assert drawn.images.shape == (5, 8, 8, 1) and drawn.noise.shape == (5, 4, 4, 1) and drawn.calls is None
  sigmas = grids.karras(6, 0.01, 10.0)
  x0, path = diffjax.sample(
    Gaussian(), samplers.Heun(), sigmas[0] * drawn.noise, sigmas, key=jax.random.key(0), trajectory=True
  )
  np.testing.assert_allclose(drawn.images, Halved().decode(x0), atol=1e-6)
  scaled = path / jnp.sqrt(1 + sigmas**2).reshape(-1, 1, 1, 1, 1)
  np.testing.assert_allclose(drawn.path, jax.vmap(Halved().decode)(scaled), atol=1e-6)
  assert abs(drawn.images.mean() - 0.15) < 0.02
  np.testing.assert_array_equal(PIPELINE.draw(5).images, to_uint8(drawn.images))


def test_from_given_noise_on_given_levels():
  noise, sigmas = np.random.default_rng(0).normal(size=(3, 4, 4, 1)).astype(np.float32), grids.exponential(4, 0.1, 5.0)
  drawn = PIPELINE.draw(3, noise=noise, sigmas=sigmas, floats=True, seed=5)
  np.testing.assert_array_equal(drawn.noise, noise)
  x0 = diffjax.sample(Gaussian(), samplers.Heun(), sigmas[0] * noise, sigmas, key=jax.random.key(0))
  np.testing.assert_allclose(drawn.images, Halved().decode(x0), atol=1e-6)
  with pytest.raises(ValueError, match=r"noise has shape \(3, 8, 8, 1\), but 3 images start from \(3, 4, 4, 1\)"):
    PIPELINE.draw(3, noise=np.zeros((3, 8, 8, 1)))
  with pytest.raises(ValueError, match="leave steps and grid out"):
    PIPELINE.draw(3, sigmas=sigmas, steps=4)
  with pytest.raises(ValueError, match="descend strictly"):
    PIPELINE.draw(3, sigmas=sigmas[:-1])


def test_what_is_not_masked_stays():
  picture, mask = np.full((8, 8, 1), 200, np.uint8), np.zeros((8, 8), bool)
  mask[3, 3] = True
  drawn = PIPELINE.draw(2, init_image=picture, mask=mask).images
  assert (drawn[:, ~mask] == 200).all() and (drawn[:, mask] != 200).all()


def test_a_mask_covers_every_place_that_holds_one_of_its_pixels():
  mask = np.zeros((8, 8), bool)
  mask[3, 3] = True
  reduced = PIPELINE._reduced(mask, np.zeros((8, 8, 1), np.uint8), (4, 4, 1))
  assert reduced.shape == (1, 4, 4, 1) and np.argwhere(reduced[0, ..., 0]).tolist() == [[1, 1]]


def test_on_several_devices_out_of_memory_advises_only_what_drawing_can_change(monkeypatch):
  def failing(*args):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

  monkeypatch.setattr(devices, "device_count", lambda: 2)
  with pytest.raises(MemoryError, match=r"; lower batch_size \(now 4\)\.$"):
    draw_batches(Programs(failing, None, None), Replicated, (None, None), tuple, (), np.arange(3), 3, list, again=False)
