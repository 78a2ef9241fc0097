"""Preprocessing against transformers' image processors.

Theirs for Pillow resizes uint8 pictures and rounds twice; theirs for torchvision resizes by torch's `interpolate`, and
floating-point pictures without rounding.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from test_preprocess import ROUNDING, SIZES

from diffjax.networks import preprocess
from diffjax.networks.preprocess import SIGLIP_MEAN, SIGLIP_STD

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

PICTURES = [*SIZES, (300, 413), (640, 481), (224, 224)]


def smooth(height, width):
  """float32 [H, W, 3] in 0..1: waves, so that the kernel does not overshoot the range."""
  y, x = np.mgrid[:height, :width] / max(height, width)
  waves = [np.sin(7 * x + 3 * y + phase) for phase in range(3)]
  return (0.5 + 0.45 * np.stack(waves, -1)).astype(np.float32)


@pytest.mark.parametrize("height, width", PICTURES)
def test_floating_point_pictures(height, width):
  from transformers import CLIPImageProcessorPil

  size, picture = 32, smooth(height, width)
  short = min(height, width)
  target = tuple(int(size * n / short) for n in (height, width))
  resized = torch.nn.functional.interpolate(
    torch.from_numpy(picture.transpose(2, 0, 1))[None], size=target, mode="bicubic", antialias=True
  )[0].numpy()
  rest = CLIPImageProcessorPil(do_resize=False, do_rescale=False, crop_size={"height": size, "width": size})
  expected = rest(images=resized, input_data_format="channels_first", return_tensors="np")["pixel_values"]
  ours = preprocess(jnp.asarray(2 * picture - 1)[None], size, clip=False)
  np.testing.assert_allclose(ours[0], expected[0].transpose(1, 2, 0), atol=1e-4)


@pytest.mark.parametrize("kind", ["noise", "smooth"])
@pytest.mark.parametrize("height, width", PICTURES)
def test_uint8_pictures(height, width, kind):
  from transformers import CLIPImageProcessorPil

  noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
  picture = noise if kind == "noise" else np.uint8(255 * smooth(height, width))
  theirs = CLIPImageProcessorPil()(images=picture, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
  difference = np.abs(preprocess(jnp.asarray(picture)[None], 224)[0] - theirs)
  assert difference.max() < (1e-5 if (height, width) == (224, 224) else ROUNDING)


def test_siglip():
  """A wide picture: since version 13 Pillow may squeeze a tall one height first, and clips elsewhere."""
  from transformers import SiglipImageProcessorPil

  picture = np.random.default_rng(0).integers(0, 256, (29, 50, 3), dtype=np.uint8)
  processor = SiglipImageProcessorPil(size={"height": 24, "width": 24})
  theirs = processor(images=picture, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
  ours = preprocess(jnp.asarray(picture)[None], 24, mean=SIGLIP_MEAN, std=SIGLIP_STD, crop=False)[0]
  assert np.abs(ours - theirs).max() < 1.15 / 255 / 0.5
