import io

import numpy as np
import pytest
from PIL import Image

from diffjax.data.pictures import fit, read_picture

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
COLOUR = np.stack([RAMP, RAMP[::-1], 255 - RAMP], -1)


def reread(image, format="PNG", **kwargs):
  file = io.BytesIO()
  image.save(file, format, **kwargs)
  file.seek(0)
  return np.asarray(read_picture(file))


@pytest.mark.parametrize("array", [RAMP, COLOUR])
def test_plain_modes_are_exact(array):
  np.testing.assert_array_equal(reread(Image.fromarray(array)), array)


def test_sixteen_bits_become_eight():
  values = np.array([[0, 128, 129, 257], [32767, 65406, 65407, 65535]], np.uint16)
  want = np.array([[0, 0, 1, 1], [127, 254, 255, 255]], np.uint8)  # nearest of v / 257
  np.testing.assert_array_equal(reread(Image.fromarray(values)), want)
  np.testing.assert_array_equal(reread(Image.fromarray(values), "TIFF"), want)


def test_float_grey_spans_zero_to_one():
  values = np.array([[0, 0.5, 1, 2], [-1, np.nan, 0.25, np.inf]], np.float32)
  np.testing.assert_array_equal(reread(Image.fromarray(values), "TIFF"), [[0, 128, 255, 255], [0, 0, 64, 255]])


def test_black_and_white():
  bits = RAMP > 100
  np.testing.assert_array_equal(reread(Image.fromarray(bits)), bits * np.uint8(255))


def test_palette():
  indexed = Image.fromarray((RAMP // 16).astype(np.uint8))
  palette = np.random.default_rng(0).integers(0, 256, (16, 3), dtype=np.uint8)
  indexed.putpalette(palette.tobytes())
  np.testing.assert_array_equal(reread(indexed), palette[RAMP // 16])


def test_alpha_is_laid_on_white():
  alpha = np.broadcast_to(np.array([0, 255, 51, 204], np.uint8).repeat(2), RAMP.shape)
  want = COLOUR * (alpha / 255)[..., None] + 255 * (1 - alpha / 255)[..., None]
  got = reread(Image.fromarray(np.dstack([COLOUR, alpha])))
  np.testing.assert_allclose(got, want, atol=1)
  np.testing.assert_array_equal(got[:, :2], 255)
  np.testing.assert_array_equal(got[:, 2:4], COLOUR[:, 2:4])
  grey = reread(Image.fromarray(np.dstack([RAMP, alpha])))
  np.testing.assert_allclose(grey[..., 0], RAMP * (alpha / 255) + 255 - alpha, atol=1)


def test_transparent_palette_entry_is_white():
  indexed = Image.fromarray((RAMP > 100).astype(np.uint8))
  indexed.putpalette([0, 0, 0, 10, 20, 30])
  got = reread(indexed, "GIF", transparency=0)
  np.testing.assert_array_equal(got, np.where((RAMP > 100)[..., None], [10, 20, 30], 255))


def test_transparent_colour_is_white():
  got = reread(Image.fromarray(COLOUR), transparency=tuple(int(c) for c in COLOUR[0, 0]))
  np.testing.assert_array_equal(got[0, 0], 255)
  np.testing.assert_array_equal(got[1:], COLOUR[1:])


def test_cmyk():
  cmyk = Image.fromarray(np.dstack([COLOUR, np.zeros_like(RAMP)]), "CMYK")
  np.testing.assert_allclose(reread(cmyk, "TIFF"), 255 - COLOUR, atol=1)


# How EXIF defines the stored picture, given the upright one.
STORED = {
  1: lambda a: a,
  2: lambda a: a[:, ::-1],
  3: lambda a: a[::-1, ::-1],
  4: lambda a: a[::-1],
  5: lambda a: a.swapaxes(0, 1),
  6: lambda a: np.rot90(a, 1),
  7: lambda a: np.rot90(a.swapaxes(0, 1), 2),
  8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  stored = np.ascontiguousarray(STORED[orientation](COLOUR))
  np.testing.assert_array_equal(reread(Image.fromarray(stored), exif=exif), COLOUR)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_animations_give_their_first_frame(format):
  first, second = (Image.fromarray(np.full((4, 4, 3), grey, np.uint8)) for grey in (40, 200))
  options = {"lossless": True} if format == "WEBP" else {}
  got = reread(first, format, save_all=True, append_images=[second], **options)
  np.testing.assert_array_equal(got, 40)


def test_a_picture_of_the_right_size_is_kept_exactly():
  np.testing.assert_array_equal(fit(Image.fromarray(COLOUR[:, :6]), 6, 3), COLOUR[:, :6])
  np.testing.assert_array_equal(fit(Image.fromarray(RAMP), None, 1), RAMP[..., None])


def test_the_central_square_is_kept():
  np.testing.assert_array_equal(fit(Image.fromarray(COLOUR), 6, 3), COLOUR[:, 1:7])
  np.testing.assert_array_equal(fit(Image.fromarray(COLOUR.swapaxes(0, 1)), 6, 3), COLOUR.swapaxes(0, 1)[1:7])


def test_shrinking_is_antialiased():
  board = np.indices((64, 64)).sum(0) % 2
  board = np.uint8(255 * board)
  np.testing.assert_allclose(fit(Image.fromarray(board), 8, 1), 127.5, atol=2)


def test_channels():
  grey = fit(Image.fromarray(COLOUR), None, 1)
  np.testing.assert_allclose(grey[..., 0], COLOUR @ [0.299, 0.587, 0.114], atol=1)
  np.testing.assert_array_equal(fit(Image.fromarray(RAMP), None, 3), RAMP[..., None].repeat(3, -1))


@pytest.mark.parametrize("size", [(1, 50), (50, 1), (1, 1)])
def test_extreme_shapes(size):
  assert (fit(Image.new("RGB", size, (9, 9, 9)), 4, 3) == 9).all()


def test_a_transparent_grey_of_sixteen_bits_is_laid_on_white():
  values = np.array([[0, 257, 30000]], np.uint16)
  np.testing.assert_array_equal(reread(Image.fromarray(values), transparency=0), [[255, 1, 117]])
