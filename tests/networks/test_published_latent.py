"""Published networks of latent diffusion have their published numbers of parameters.

Counted in diffusers 0.42.1 on PyTorch's meta device; the autoencoder's halves also stand in TAESD's README.
"""

import jax
import pytest

from diffjax.networks import PUBLISHED_AUTOENCODERS, PUBLISHED_TEXT_UNETS, AutoencoderKL, TextUNet, TinyAutoencoder
from diffjax.pretrained.stable_diffusion.weights import autoencoder_shapes, unet_shapes

pytestmark = pytest.mark.slow


def count(shapes):
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
  ("name", "channels", "context", "pooled", "expected"),
  [
    ("stable_diffusion_1", 4, 768, 0, 859_520_964),
    ("stable_diffusion_1", 9, 768, 0, 859_535_364),  # inpainting
    ("stable_diffusion_1", 8, 768, 0, 859_532_484),  # InstructPix2Pix
    ("latent_consistency_1", 4, 768, 0, 859_602_884),
    ("stable_diffusion_2", 4, 1024, 0, 865_910_724),
    ("stable_diffusion_2", 9, 1024, 0, 865_925_124),  # inpainting
    ("stable_diffusion_2", 5, 1024, 0, 865_913_604),  # depth
    ("stable_diffusion_xl", 4, 2048, 2816, 2_567_463_684),
    ("stable_diffusion_xl", 9, 2048, 2816, 2_567_478_084),  # inpainting
    ("stable_diffusion_xl_refiner", 4, 1280, 2560, 2_259_526_660),
    ("stable_diffusion_x4_upscaler", 7, 1024, 0, 473_398_020),
  ],
)
def test_text_unets(name, channels, context, pooled, expected):
  assert count(unet_shapes(TextUNet(**PUBLISHED_TEXT_UNETS[name]), channels, context, pooled)) == expected


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("stable_diffusion", 83_653_863),
    ("stable_diffusion_x4_upscaler", 55_325_927),
    ("stable_diffusion_3", 83_819_683),
  ],
)
def test_autoencoders(name, expected):
  assert count(autoencoder_shapes(AutoencoderKL(**PUBLISHED_AUTOENCODERS[name]))) == expected


def test_the_halves_of_an_autoencoder():
  params = autoencoder_shapes(AutoencoderKL())["params"]
  # the quant convolutions count with their halves
  assert count([params["encoder"], params["quant"]]) == 34_163_664
  assert count([params["decoder"], params["post_quant"]]) == 49_490_199


def test_the_tiny_autoencoder():
  assert count(autoencoder_shapes(TinyAutoencoder())) == 2_445_063
