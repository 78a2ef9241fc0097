"""sample.py on the folder of a run: what it writes, and what it says when it cannot."""

import functools
import os

import jax
import numpy as np
import pytest
from PIL import Image

from diffjax import DiffjaxWarning, from_config, runs
from diffjax.runs.checkpoints import Checkpoints
from sample import UNCOUNTED, draw, expected


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, tiny_data):
  """A conditional run as training leaves it, with two checkpoints."""
  import tiny_config

  config = tiny_config.get_config()
  config.model.num_classes = 10
  config.data.data_dir = str(tiny_data)
  workdir = tmp_path_factory.mktemp("run")
  runs.claim(workdir, config)
  state = jax.tree.map(np.asarray, from_config.initial_state(config))
  checkpoints = Checkpoints(workdir / runs.CHECKPOINTS, 2)
  for step in (3, 6):
    checkpoints.save(step, state.replace(step=np.int32(step)), config.to_dict(), {}, 0.5)
  checkpoints.close()
  return workdir


def test_files_hold_what_is_returned(workdir, tmp_path, capsys):
  images = draw(workdir, tmp_path, num=7, labels=[3, 5], seed=2, guidance_scale=1.5)
  with np.load(tmp_path / "samples.npz") as stored:
    assert sorted(stored) == ["images", "labels"]
    np.testing.assert_array_equal(stored["images"], images)
    np.testing.assert_array_equal(stored["labels"], [3, 5, 3, 5, 3, 5, 3])
  assert images.shape == (7, 8, 8, 1) and images.dtype == np.uint8
  assert sorted(path.name for path in tmp_path.iterdir()) == ["grid.png", "samples.npz"]
  assert Image.open(tmp_path / "grid.png").width > 56
  assert capsys.readouterr() == (f"7 images from step 6 in {tmp_path}\n", "")


@pytest.mark.slow
def test_film_strip_of_the_same_pictures(workdir, tmp_path):
  plain = draw(workdir, tmp_path / "plain", num=3)
  filmed = draw(workdir, tmp_path / "filmed", num=3, filmstrip=True, steps=4)
  assert np.abs(plain.astype(int) - filmed).max() <= 1
  assert Image.open(tmp_path / "filmed" / "filmstrip.png").width > Image.open(tmp_path / "filmed" / "grid.png").width
  assert Image.open(tmp_path / "filmed" / "denoising.gif").n_frames > 1
  assert "labels" not in np.load(tmp_path / "plain" / "samples.npz")


@pytest.mark.slow
def test_mistakes_write_nothing(workdir, tmp_path):
  for options in ({"num": -2, "labels": [3]}, {"labels": [10]}, {"sampler": "huen"}, {"steps": 0}):
    with pytest.raises(ValueError):
      draw(workdir, tmp_path / "out", **options)
  with pytest.raises(FileNotFoundError):
    draw(tmp_path / "nowhere", tmp_path / "out")
  assert not list(tmp_path.iterdir())
  (tmp_path / "file").write_text("")
  with pytest.raises(OSError, match=r"nothing can be written to .*file/out; choose another"):
    draw(workdir, tmp_path / "file" / "out")


def test_damaged_newest_checkpoint(workdir, tmp_path, capsys):
  metadata = workdir / "checkpoints" / "6" / "run" / "metadata"
  whole = metadata.read_bytes()
  metadata.write_bytes(whole[:100])
  try:
    with pytest.warns(DiffjaxWarning, match="so the one before it is used"):
      draw(workdir, tmp_path, num=2)
  finally:
    metadata.write_bytes(whole)
  assert "from step 3" in capsys.readouterr().out


def bomb(path):
  Image.new("1", (12_000, 12_000)).save(path)


HOSTILE = {
  "empty": lambda path: path.touch(),
  "words": lambda path: path.write_text("no picture"),
  "vector": lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"),
  "bomb": bomb,
  "pipe": os.mkfifo,
  "device": lambda path: path.symlink_to("/dev/zero"),
  "circle": lambda path: path.symlink_to(path.name),
  "folder": lambda path: path.mkdir(),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pictures_are_refused_and_nothing_is_written(kind, workdir, tmp_path):
  path, out, good = tmp_path / "given.png", tmp_path / "out", tmp_path / "good.png"
  HOSTILE[kind](path)
  Image.new("L", (8, 8)).save(good)
  for pictures in (
    {"init_image": path},
    {"init_image": good, "mask": path},
    {"clip": "nowhere", "image_prompt": f"{good}|{path}::2"},
  ):
    with pytest.raises(ValueError, match=r"given\.png cannot be read \(|there is no file .*given\.png"):
      draw(workdir, out, num=2, **pictures)
    assert not out.exists()


slow = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
  ("arguments", "says"),
  [
    ([], "--workdir is missing"),
    slow(["--smapler=heun"], "did you mean sampler?"),
    (["--sampler=dpmp_2m"], "did you mean 'dpmpp_2m'"),
    slow(["--label=three"], "--label=three is not a label"),
    slow(["--label="], "--label= is not a label"),
    slow(["--label=²"], "--label=² is not a label"),
    slow(["--label=99999999999"], "choose each from 0..9"),
    slow(["--seed=9223372036854775808"], "seed is 9223372036854775808"),
    slow(["--steps=0"], "num_steps is 0"),
    slow(["--prompt=a three"], "a prompt needs a CLIP"),
    slow(["--clip=runs/clip"], "act on a prompt"),
    slow(["--prompt=a three", "--clip=nowhere"], "there is no folder nowhere"),
    slow(["--best_of=8"], "selects 64 images by a prompt"),
    slow(["--guidance=configs/guidance.py:disc"], "has no 'disc'"),
  ],
)
def test_processes_end_with_one_sentence(script, workdir, tmp_path, arguments, says):
  where = [f"--workdir={workdir}"] if arguments else []
  process = script("sample.py", *where, f"--out={tmp_path / 'out'}", *arguments)
  out, err = process.communicate(timeout=120)
  assert (process.returncode, out) == (1, "")
  assert err.startswith("error: ") and err.count("\n") == 1 and says in err
  assert not list(tmp_path.iterdir())


def test_samplers_are_listed_without_a_run(script):
  out, errors = script("sample.py", "--list_samplers").communicate()
  assert not errors
  assert [line.split()[0] for line in out.splitlines()] == ["name", *from_config.SAMPLERS]


ASKED = ("best", "tokenizer", "prediction", "num", "labels", "steps", "sampler", "grid", "guidance_scale", "batch_size")


@pytest.mark.slow
@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({}, None),
    ({"labels": [3], "num": 2}, None),
    ({"num": -3}, "num is -3, but must be a whole number of at least 1"),
    ({"num": 0}, "num is 0, but must be a whole number of at least 1"),
    ({"batch_size": 0}, "batch_size is 0, but must be a whole number of at least 1"),
    ({"filmstrip": True}, "--dry_run does not count what --filmstrip takes; omit one of them"),
    ({"best_of": 8}, "--dry_run does not count what --best_of takes; omit one of them"),
  ],
)
def test_a_dry_run_of_drawing(workdir, given, message):
  options = dict.fromkeys((*ASKED, *UNCOUNTED)) | {"best": False} | given
  if message is None:
    lines = expected(workdir, None, options).splitlines()
    assert lines[0].startswith(f"images          {given.get('num', 64)} at a time") and lines[-1].startswith(
      "each device"
    )
  else:
    with pytest.raises(ValueError, match=message):
      expected(workdir, None, options)
