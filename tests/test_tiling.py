"""Tiles against decoding as a whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import struct
from diffjax.codecs import Latents
from diffjax.networks import AutoencoderKL
from diffjax.tiling import Tiled, _ramp, fitting

KEY = jax.random.key(0)


@struct.dataclass
class Blocks:
  """Every latent becomes a block of pixels, whatever is around it."""

  downscaling = 4

  def decode(self, x0):
    return jnp.repeat(jnp.repeat(x0[..., :3], 4, axis=1), 4, axis=2)


@struct.dataclass
class Brighter(Blocks):
  """As Blocks, but a tile's brightness is that of its first latent."""

  def decode(self, x0):
    return jnp.ones((len(x0), 4 * x0.shape[1], 4 * x0.shape[2], 1)) * x0[:, :1, :1, :1]


@pytest.mark.parametrize("size", [(16, 16), (9, 23), (8, 30), (5, 3), (40, 8)])
@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_a_local_decoder_gives_the_same_in_tiles(size, overlap):
  x0 = jax.random.normal(KEY, (2, *size, 4))
  tiled = Tiled(Blocks(), tile=8, overlap=overlap)
  np.testing.assert_allclose(jax.jit(tiled.decode)(x0), Blocks().decode(x0), rtol=1e-5, atol=1e-6)


def test_overlaps_are_blended_linearly():
  x0 = jnp.zeros((1, 8, 14, 1)).at[:, :, 6:].set(1.0)  # tiles begin at 0 and at 6, with brightness 0 and 1
  row = Tiled(Brighter(), tile=8).decode(x0)[0, 10, :, 0]
  np.testing.assert_allclose(row[:24], 0.0)
  np.testing.assert_allclose(row[32:], 1.0)
  np.testing.assert_allclose(row[24:32], (np.arange(8) + 0.5) / 8, atol=1e-6)


def test_weights_are_positive_and_symmetric():
  for side, overlap in ((8, 0.25), (7, 0.5), (1, 0.25)):
    ramp = _ramp(side, overlap)
    assert (ramp > 0).all() and ramp.max() <= 1
    np.testing.assert_array_equal(ramp, ramp[::-1])


@pytest.mark.slow
def test_an_autoencoder_in_tiles_needs_less_memory_and_hardly_differs():
  module = AutoencoderKL(widths=(8, 16), layers_per_level=1, num_groups=4)
  codec = Latents(module.init(KEY, jnp.zeros((1, 16, 16, 3))), module=module)
  x0 = jax.random.normal(KEY, (1, 96, 96, 4))

  def temporaries(codec):
    return jax.jit(codec.decode).lower(x0).compile().memory_analysis().temp_size_in_bytes

  tiled = Tiled(codec, tile=32)
  assert temporaries(tiled) < 0.4 * temporaries(codec)
  whole, parts = codec.decode(x0), jax.jit(tiled.decode)(x0)
  assert parts.shape == whole.shape and np.abs(parts - whole).mean() < 0.1 * np.abs(whole).mean()
  np.testing.assert_array_equal(tiled.encode(whole), codec.encode(whole))
  np.testing.assert_array_equal(Tiled(codec, tile=96).decode(x0), whole)


def test_only_what_would_not_fit_is_decoded_in_tiles():
  module = AutoencoderKL()
  codec = Latents({}, module=module)
  gigabytes = 2**30
  # 3 * 256 channels * 1024 * 1024 pixels * 4 bytes = 3 GiB
  assert fitting(codec, (128, 128, 4), 13 * gigabytes) is codec
  assert isinstance(fitting(codec, (128, 128, 4), 11 * gigabytes), Tiled)
  assert isinstance(fitting(codec, (128, 136, 4), 12 * gigabytes), Tiled)
  assert fitting(codec, (128, 128, 4), None) is codec
  half = Latents({}, module=module.clone(dtype=jnp.bfloat16))
  assert fitting(half, (128, 128, 4), 7 * gigabytes) is half
  blocks = Blocks()
  assert fitting(blocks, (128, 128, 4), 1) is blocks
