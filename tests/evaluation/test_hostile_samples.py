"""Files given as samples.npz: no pickle runs, no archive unpacks without end, and damage is one sentence."""

import io
import os
import pathlib
import zipfile

import numpy as np
import pytest
from mutations import Bounded, damage, endure

from diffjax.evaluation.__main__ import main, read_samples

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 2, 2, 1), np.uint8)


class Bomb:
  def __reduce__(self):
    return pathlib.Path.touch, (pathlib.Path(os.environ["BOMB"]),)


def npy(array, **options):
  file = io.BytesIO()
  np.lib.format.write_array(file, np.asarray(array), **options)
  return file.getvalue()


def header(text):
  return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def archive(method=zipfile.ZIP_DEFLATED, **members):
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w", method) as made:
    for name, content in members.items():
      made.writestr(f"{name}.npy", content)
  return file.getvalue()


def claimed(shape, descr="|u1"):
  return header(f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}\n")


def saying(size):
  """An archive whose directory says that its array has so many bytes; no more than that is ever unpacked."""
  data = bytearray(archive(images=npy(IMAGES)))
  at = data.rindex(b"PK\1\2") + 24
  data[at : at + 4] = size.to_bytes(4, "little")
  return bytes(data)


WHOLE = archive(images=npy(IMAGES), labels=npy(np.arange(7)))
OBJECT = np.array([Bomb()], object)
HOSTILE = {
  "empty": (b"", "not a zip"),
  "words": (b"hello", "not a zip"),
  "pickle": (b"\x80\x04cos\nsystem\n(S'echo'\ntR.", "not a zip"),
  "a single array": (npy(IMAGES), "not a zip"),
  "no arrays": (archive(), "no array `images`"),
  "other arrays": (archive(pictures=npy(IMAGES)), "no array `images`"),
  "images of objects": (lambda: archive(images=npy(OBJECT)), "Object arrays cannot be loaded"),
  "labels of objects": (lambda: archive(images=npy(IMAGES), labels=npy(OBJECT)), "Object arrays cannot be loaded"),
  "words for an array": (archive(images=b"hello"), "not arrays"),
  "a pickle for an array": (archive(images=b"\x80\x04cos\nsystem\n(S'echo'\ntR."), "not arrays"),
  "code for a header": (archive(images=header("__import__('os').system('touch ran')\n")), "cannot be read"),
  "a deep header": (archive(images=header("(" * 60_000 + "\n")), "cannot be read"),
  "shape beyond the data": (archive(images=claimed((1000, 8, 8, 1)) + b"\0"), "cannot be read"),
  "shape beyond the memory": (archive(images=claimed((2**40, 2**10, 8, 1)) + b"\0"), "cannot be read"),
  "shape beyond numbers": (archive(images=claimed((2**70, 8, 8, 1)) + b"\0"), "cannot be read"),
  "negative shape": (archive(images=claimed((-1, 8, 8, 1)) + b"\0" * 64), "cannot be read"),
  "no room to unpack": (saying(2**30 + 1), "its arrays take 1073741825 bytes, more than 1073741824"),
  "more than it says": (saying(130), "cannot be read"),
  "floats": (archive(images=npy(IMAGES / 255)), "no array `images` of uint8"),
  "three dimensions": (archive(images=npy(IMAGES[0])), "no array `images` of uint8"),
  "too few labels": (archive(images=npy(IMAGES), labels=npy(np.arange(3))), "not one for each image"),
  "labels in words": (archive(images=npy(IMAGES), labels=npy(np.array(["a"] * 7))), "not one for each image"),
  "labels that are broken": (archive(images=npy(IMAGES), labels=npy(np.arange(7) / 2)), "not one for each image"),
  "cut": (WHOLE[:-30], "not a zip"),
  "unknown packing": (WHOLE.replace(b"\x14\x00\x00\x00\x08\x00", b"\x14\x00\x00\x00\x63\x00"), "cannot be read"),
  "locked": (WHOLE.replace(b"\x14\x00\x00\x00\x08\x00", b"\x14\x00\x01\x00\x08\x00"), "cannot be read"),
  "damaged within": (WHOLE[:60] + b"\xff" * 9 + WHOLE[69:], "cannot be read"),
}


@pytest.fixture
def ran(tmp_path, monkeypatch):
  """A file that is there if something was run."""
  monkeypatch.setenv("BOMB", str(tmp_path / "ran"))
  monkeypatch.chdir(tmp_path)
  return tmp_path / "ran"


@pytest.mark.parametrize("kind", HOSTILE)
def test_files_are_refused_in_one_sentence_and_nothing_runs(kind, ran, tmp_path):
  content, says = HOSTILE[kind]
  path = tmp_path / "samples.npz"
  path.write_bytes(content() if callable(content) else content)
  with (
    Bounded(),
    pytest.raises(ValueError, match=r"samples\.npz .+; give the samples\.npz that sample\.py wrote\.$") as error,
  ):
    read_samples(str(path))
  assert says in str(error.value) and str(error.value).isprintable() and len(str(error.value)) < 600
  assert not ran.exists()


def test_the_bomb_works(ran):
  np.load(io.BytesIO(npy(OBJECT)), allow_pickle=True)
  assert ran.exists()


def test_a_whole_file_is_read(tmp_path):
  (tmp_path / "samples.npz").write_bytes(WHOLE)
  got = read_samples(str(tmp_path / "samples.npz"))
  np.testing.assert_array_equal(got["image"], IMAGES)
  np.testing.assert_array_equal(got["label"], np.arange(7))


@pytest.mark.parametrize("path", ["pipe.npz", "/dev/zero", "/dev/stdin", ".", "itself.npz", "\0"])
def test_no_regular_file(path, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  os.mkfifo("pipe.npz")
  os.symlink("itself.npz", "itself.npz")
  with pytest.raises(ValueError, match="there is no file"):
    read_samples(path)


def test_the_command_refuses_before_it_loads_anything_of_the_file(ran, tmp_path, monkeypatch, capsys):
  import sys
  import types

  run = types.SimpleNamespace(data=lambda split: {}, frozen=None)
  fake = types.SimpleNamespace(load_run=lambda workdir: run, CONFIG="config.json", read_config=None)
  monkeypatch.setitem(sys.modules, "diffjax.runs", fake)
  (tmp_path / "samples.npz").write_bytes(archive(images=npy(OBJECT)))
  with pytest.raises(SystemExit) as stop:
    main(["evaluation", "--workdir=here", "--samples=samples.npz", f"--out={tmp_path / 'out'}"])
  assert stop.value.code.startswith("error: samples.npz cannot be read as .npz (Object arrays") and not ran.exists()
  assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("trials", [2000, pytest.param(20_000, marks=pytest.mark.soak)])
def test_mutations(trials, tmp_path):
  path = tmp_path / "samples.npz"
  seeds = [WHOLE, archive(zipfile.ZIP_STORED, images=npy(IMAGES), labels=npy(np.arange(7)))]

  def attempt(rng):
    if rng.random() < 0.3:  # past the archive's own checksums
      path.write_bytes(archive(images=damage(rng, npy(IMAGES)), labels=damage(rng, npy(np.arange(7)))))
    else:
      path.write_bytes(damage(rng, rng.choice(seeds)))
    try:
      got = read_samples(str(path))
    except ValueError as error:
      assert str(error).isprintable() and len(str(error)) < 600
      return "refused"
    assert got["image"].dtype == np.uint8 and got["image"].ndim == 4
    return "read"

  outcomes = endure("mutations of samples.npz", trials, attempt)
  assert min(outcomes["refused"], outcomes["read"]) > trials / 50
