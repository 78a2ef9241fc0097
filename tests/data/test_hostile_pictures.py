"""Odd files and ones that are not images: read, or skipped and named; nothing runs, hangs or fills the memory."""

import functools
import io
import os
import struct
import zlib

import numpy as np
import pytest
from mutations import Bounded, damage, endure
from PIL import Image

from diffjax import DiffjaxWarning, data
from diffjax.data.pictures import load_picture

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], -1)


def encoded(array, format, mode=None, **options):
  file, image = io.BytesIO(), Image.fromarray(array)
  (image.convert(mode) if mode else image).save(file, format, **options)
  return file.getvalue()


def chunk(kind, content):
  return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@functools.cache
def packed(byte, megabytes):
  """That many equal bytes, compressed without allocating them."""
  packer = zlib.compressobj(1)
  return b"".join(packer.compress(byte * 2**20) for _ in range(megabytes)) + packer.flush()


def png(width, height, *chunks, depth=8, colour=0, pixels=b"\0" * 1000, data=None):
  header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
  body = [*chunks, chunk(b"IDAT", data or zlib.compress(pixels)), chunk(b"IEND", b"")]
  return b"\x89PNG\r\n\x1a\n" + header + b"".join(body)


def tiff(*entries):
  """A TIFF of one directory; each entry is (tag, type, count, value)."""
  rows = b"".join(struct.pack("<HHII", *entry) for entry in entries)
  return b"II*\0" + struct.pack("<IH", 8, len(entries)) + rows + b"\0" * 4


ANIMATION = dict(save_all=True, append_images=[Image.fromarray(255 - COLOUR)])
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
BROKEN_EXIF = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage"
EPS = (
  b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n8 8 1 [8 0 0 8 0 0] {<00>} image\nshowpage\n%%EOF\n"
)

READ = {
  "animated.gif": encoded(COLOUR, "GIF", **ANIMATION),
  "animated.webp": encoded(COLOUR, "WEBP", lossless=True, **ANIMATION),
  "animated.png": encoded(COLOUR, "PNG", **ANIMATION),
  "deep_grey.png": encoded((GREY * 257.0).astype(np.uint16), "PNG"),
  "deep_grey.tif": encoded((GREY * 257.0).astype(np.uint16), "TIFF"),
  "deep_colour.png": png(1, 1, depth=16, colour=2, pixels=b"\0\x40\0\x80\0\xff\0"),
  "cmyk.jpg": encoded(COLOUR, "JPEG", "CMYK"),
  "cmyk.tif": encoded(COLOUR, "TIFF", "CMYK"),
  "palette.png": encoded(COLOUR, "PNG", "P", transparency=3),
  "palette.gif": encoded(COLOUR, "GIF", "P", transparency=b"\0\x80" * 8),
  "black_and_white.png": encoded(GREY, "PNG", "1"),
  "lab.tif": encoded(COLOUR, "TIFF", "LAB"),
  "really_png.jpg": encoded(COLOUR, "PNG"),
  "really_jpg.png": encoded(COLOUR, "JPEG"),
  "really_webp.bmp": encoded(COLOUR, "WEBP"),
  "broken_exif.jpg": encoded(COLOUR, "JPEG", exif=BROKEN_EXIF),
  "broken_exif.webp": encoded(COLOUR, "WEBP", exif=BROKEN_EXIF),
  "more_behind.png": encoded(COLOUR, "PNG") + b"more" * 1000,
  "long_text.png": png(8, 8, chunk(b"tEXt", b"note\0" + b"x" * 10**6)),
  "deep_zip.png": png(8, 8, data=packed(b"\0", 100)),
  "one_pixel_high.png": png(10**6, 1, pixels=b"\0" * (10**6 + 1)),
}
SKIPPED = {
  "empty.png": (b"", "empty file"),
  "words.png": (b"these are words", "not an image"),
  "page.jpg": (b"<html><body>404 Not Found</body></html>", "not an image"),
  "pickle.png": (b"\x80\x04cos\nsystem\n(S'echo'\ntR.", "not an image"),
  "vector.png": (EPS, "not an image"),
  "vector.svg.png": (b"<svg xmlns='http://www.w3.org/2000/svg' width='8' height='8'/>", "not an image"),
  "header_alone.png": (b"\x89PNG\r\n\x1a\n", "not an image"),
  "cut.png": (encoded(NOISE, "PNG")[:2000], ""),
  "cut.jpg": (encoded(NOISE, "JPEG")[:600], "Truncated"),
  "cut.gif": (encoded(NOISE, "GIF")[:1000], "truncated"),
  "cut.webp": (encoded(NOISE, "WEBP")[:400], ""),
  "cut.tif": (encoded(NOISE, "TIFF")[:100], ""),
  "cut.bmp": (encoded(NOISE, "BMP")[:1000], "truncated"),
  "bomb.png": (png(12_000, 12_000, depth=1), "decompression bomb"),
  "large_bomb.png": (png(2**31 - 1, 2**31 - 1), "decompression bomb"),
  "bomb.gif": (
    b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x08\x02\x44\x01\0;",
    "bomb",
  ),
  "bomb.bmp": (b"BM" + struct.pack("<IIIIiiHH", 54, 0, 54, 40, 60_000, 60_000, 1, 24) + b"\0" * 24, "bomb"),
  "bomb.ppm": (b"P6 60000 60000 255\n" + b"\0" * 100, "bomb"),
  "bomb.tga": (struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 60_000, 60_000, 24, 0), "bomb"),
  "text_bomb.png": (png(8, 8, chunk(b"zTXt", b"note\0\0" + packed(b"x", 300))), "Decompressed data too large"),
  "profile_bomb.png": (png(8, 8, chunk(b"iCCP", b"p\0\0" + packed(b"x", 300))), ""),
  "no_width.png": (png(0, 8), ""),
  "no_size.gif": (b"GIF89a" + b"\0" * 7, ""),
  "negative.bmp": (b"BM" + struct.pack("<IIIIiiHH", 54, 0, 54, 40, -8, -8, 1, 24) + b"\0" * 24, ""),
  "many_tags.tif": (b"II*\0\x08\0\0\0\xff\xff" + b"\0" * 100, ""),
  "circle.tif": (b"II*\0\x08\0\0\0\0\0\x08\0\0\0", ""),
  "long_tag.tif": (tiff((256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 2**30, 8), (273, 4, 2**30, 8), (279, 4, 1, 64)), ""),
}


@pytest.fixture
def hostile(save):
  """hostile(name, bytes or a function of the path) adds a file to a folder of 40 good ones; returns the folder."""
  for grey in range(40):
    folder = save(f"{grey}.png", grey)

  def add(name, content):
    content(folder / name) if callable(content) else (folder / name).write_bytes(content)
    return folder

  return add


def load(folder, split="train"):
  return data.load("image_folder", split, folder=folder, image_size=4, channels=3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", READ)
def test_strange_pictures_are_read(name, hostile):
  folder = hostile(name, READ[name])
  with Bounded():
    train = load(folder)
  assert len(train) + len(load(folder, "test")) == 41


@pytest.mark.parametrize("name", ["animated.gif", "animated.webp", "animated.png"])
def test_the_first_frame_of_an_animation_counts(name, tmp_path):
  (tmp_path / name).write_bytes(READ[name])
  got = load_picture(tmp_path / name, None, 3).astype(int)
  assert np.abs(got - COLOUR).mean() < 20 < 60 < np.abs(got - (255 - COLOUR)).mean()


def links_to(target):
  return lambda path: path.symlink_to(target)


ODD_FILES = {
  "pipe.png": os.mkfifo,
  "zero.png": links_to("/dev/zero"),
  "terminal.png": links_to("/dev/tty"),
  "itself.png": links_to("itself.png"),
  "nowhere.png": links_to("/nowhere/at/all.png"),
  "too_long.png": links_to("x" * 3000),
}
UNREADABLE = SKIPPED | {name: (make, "not a regular file") for name, make in ODD_FILES.items()}


@pytest.mark.parametrize("name", UNREADABLE)
def test_others_are_skipped_counted_and_named(name, hostile):
  content, reason = UNREADABLE[name]
  folder = hostile(name, content)
  with Bounded(), pytest.warns(DiffjaxWarning, match=rf"^1 of 41 image files .* skipped; .* {name} \(.+\)\.$") as told:
    train = load(folder)
  message = str(told[0].message)
  assert len(told) == 1 and reason in message and message.isprintable() and len(message) < 600
  with pytest.warns(DiffjaxWarning, match="1 of 41"):
    assert len(train) + len(load(folder, "test")) == 40


@pytest.mark.parametrize("name", UNREADABLE)
def test_as_the_one_picture_of_a_command_each_is_refused(name, tmp_path):
  content, _ = UNREADABLE[name]
  content(tmp_path / name) if callable(content) else (tmp_path / name).write_bytes(content)
  with (
    Bounded(),
    pytest.raises(
      ValueError, match=r"cannot be read \(.+\); give an image|there is no file .*; give the path"
    ) as error,
  ):
    load_picture(tmp_path / name, 8, 3)
  assert str(error.value).isprintable() and name in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize("path", ["", ".", "\0", "x" * 5000, "/dev/zero", "/dev/stdin", "/proc/self/mem"])
def test_what_is_no_path_of_a_picture(path):
  with pytest.raises((ValueError, OSError)):
    load_picture(path, 8, 3)


def test_more_than_the_limit_stop(hostile):
  for name in list(UNREADABLE)[:5]:
    folder = hostile(name, UNREADABLE[name][0])
  with pytest.raises(ValueError, match=r"^5 of 45 image files .* more than the 10% allowed; repair or remove .+\.$"):
    load(folder)


def test_a_folder_may_be_called_like_a_picture(hostile):
  def make(path):
    path.mkdir()
    (path / "inner.png").write_bytes(encoded(COLOUR, "PNG"))
    (path / "up").symlink_to("..")

  folder = hostile("album.png", make)
  with pytest.warns(DiffjaxWarning, match="not in any sub-folder"):
    assert len(load(folder)) + len(load(folder, "test")) == 41


@pytest.mark.parametrize("name", [b"\x1b[2J\n.png", b"\xff\xfe.png", "\u202e.png".encode()])
def test_names_are_told_in_one_printable_line(name, hostile, tmp_path):
  with open(os.fsencode(tmp_path) + b"/" + name, "wb"):
    pass
  folder = hostile("words.png", b"words")
  with pytest.warns(DiffjaxWarning, match="2 of 42 image files") as told:
    load(folder)
  assert str(told[0].message).isprintable()


def test_ghostscript_never_runs(tmp_path, monkeypatch):
  """PIL passes an EPS, whatever its name, to the program gs; here that would be detected."""
  (tmp_path / "bin").mkdir()
  (tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
  (tmp_path / "bin" / "gs").chmod(0o755)
  monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
  monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
  (tmp_path / "vector.png").write_bytes(EPS)
  with pytest.raises(ValueError, match="not an image"):
    load_picture(tmp_path / "vector.png", 8, 3)
  assert not (tmp_path / "ran").exists()
  with pytest.raises(OSError):
    Image.open(tmp_path / "vector.png").load()
  assert (tmp_path / "ran").exists()


TURNED = Image.Exif()
TURNED[0x0112] = 6
SEEDS = {
  "PNG": encoded(COLOUR, "PNG"),
  "APNG": encoded(COLOUR, "PNG", **ANIMATION),
  "deep PNG": encoded((GREY * 257.0).astype(np.uint16), "PNG"),
  "palette PNG": encoded(COLOUR, "PNG", "P", transparency=3),
  "JPEG": encoded(COLOUR, "JPEG", exif=TURNED),
  "progressive JPEG": encoded(COLOUR, "JPEG", progressive=True),
  "GIF": encoded(COLOUR, "GIF", **ANIMATION),
  "WebP": encoded(COLOUR, "WEBP"),
  "animated WebP": encoded(COLOUR, "WEBP", lossless=True, **ANIMATION),
}


def with_right_checksums(data):
  """A PNG with its checksums recomputed, so that damage gets past the first check."""
  whole, at = data[:8], 8
  while at + 12 <= len(data):
    length = min(int.from_bytes(data[at : at + 4], "big"), len(data) - at - 12)
    whole += chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length])
    at += 12 + length
  return whole


@pytest.mark.parametrize("trials", [3000, pytest.param(20_000, marks=pytest.mark.soak)])
def test_mutations(trials, tmp_path):
  path = tmp_path / "picture.png"

  def attempt(rng):
    kind = rng.choice(list(SEEDS))
    damaged = damage(rng, SEEDS[kind])
    path.write_bytes(with_right_checksums(damaged) if "PNG" in kind and rng.random() < 0.7 else damaged)
    try:
      picture = load_picture(path, 4, 3)
    except ValueError as error:
      assert str(error).isprintable() and len(str(error)) < 600
      return "refused"
    assert picture.shape == (4, 4, 3) and picture.dtype == np.uint8
    return "read"

  outcomes = endure("mutations of pictures", trials, attempt, most_seconds=5, most_bytes=2**30)
  assert min(outcomes["refused"], outcomes["read"]) > trials / 20
