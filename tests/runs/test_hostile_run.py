"""Untrusted run folders: nothing in them is executed, and bad JSON is reported in one sentence."""

import json
import os
import random
import shutil

import jax
import numpy as np
import pytest
from mutations import Bounded, endure

from diffjax import from_config, runs
from diffjax.from_config import configuration
from diffjax.runs import folder as run_folder
from diffjax.runs.checkpoints import Checkpoints

PLANTED = "import pathlib\npathlib.Path({ran!r}).touch()\n"
IN_FOLDER = [
  "config.py",
  "__init__.py",
  "conftest.py",
  "sitecustomize.py",
  "usercustomize.py",
  "get_config.py",
  "jax.py",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_data):
  """A run as training leaves it."""
  import tiny_config

  config = tiny_config.get_config()
  config.data.data_dir = str(tiny_data)
  workdir = tmp_path_factory.mktemp("run")
  runs.claim(workdir, config)
  checkpoints = Checkpoints(workdir / runs.CHECKPOINTS, 1)
  checkpoints.save(3, jax.tree.map(np.asarray, from_config.initial_state(config)), config.to_dict(), {}, 0.5)
  checkpoints.close()
  return workdir


@pytest.fixture
def workdir(made, tmp_path):
  return shutil.copytree(made, tmp_path / "given")


def plant(workdir, ran):
  """Plants Python code that leaves a trace, in every file that might be imported and in the JSON values."""
  code = PLANTED.format(ran=str(ran))
  for name in IN_FOLDER:
    (workdir / name).write_text(code)
  tree = json.loads((workdir / "config.json").read_text())
  evil = f"__import__('pathlib').Path({str(ran)!r}).touch()"
  tree["data"]["folder"] = tree["sampler"]["more"] = tree["__reduce__"] = evil
  tree["py/object/apply"] = ["os.system", [f"touch {ran}"]]
  tree["get_config"] = {"py/function": evil}
  (workdir / "config.json").write_text(json.dumps(tree))


@pytest.mark.slow
def test_loading_a_run_executes_nothing(workdir, tmp_path):
  plant(workdir, tmp_path / "ran")
  tree = json.loads((workdir / "config.json").read_text())
  with pytest.raises(ValueError, match="is not a valid run config"):
    runs.load_run(workdir)
  del tree["__reduce__"]
  (workdir / "config.json").write_text(json.dumps(tree))
  assert runs.load_run(workdir).draw(2).shape == (2, 8, 8, 1)
  assert not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["sample.py", "evaluation"])
def test_the_commands_execute_nothing(command, workdir, tmp_path, script, monkeypatch):
  plant(workdir, tmp_path / "ran")
  tree = json.loads((workdir / "config.json").read_text())
  del tree["__reduce__"]
  tree["data"]["folder"] = ""
  (workdir / "config.json").write_text(json.dumps(tree))
  arguments = [f"--workdir={workdir}", f"--out={tmp_path / 'out'}", "--num=6"]
  if command == "evaluation":
    arguments = [*arguments, "--steps=2"]
    command = "diffjax/evaluation/__main__.py"
  process = script(command, *arguments)
  _out, err = process.communicate(timeout=300)
  assert (process.returncode, err) == (0, ""), err
  assert not (tmp_path / "ran").exists()


def changed(change):
  """The JSON of a run's config after a change to it."""

  def text(whole):
    tree = json.loads(whole)
    change(tree)
    return json.dumps(tree)

  return text


def put(*keys, value):
  def change(tree):
    for key in keys[:-1]:
      tree = tree[key]
    tree[keys[-1]] = value

  return changed(change)


NO_CONFIG = {
  "empty": lambda whole: "",
  "code": lambda whole: "__import__('os').system('touch ran')",
  "Python's literal": lambda whole: str(json.loads(whole)),
  "YAML": lambda whole: "!!python/object/apply:os.system ['touch ran']",
  "pickle": lambda whole: "\x80\x04cos\nsystem\n(S'touch ran'\ntR.",
  "not UTF-8": lambda whole: whole.encode().replace(b"karras", b"karr\xff\xff"),
  "a list": lambda whole: f"[{whole}]",
  "a number": lambda whole: "1",
  "null": lambda whole: "null",
  "deep": lambda whole: '{"a":' * 100_000,
  "deep and whole": lambda whole: '{"a":' * 500 + "1" + "}" * 500,
  "deep within": put("model", "more", value=json.loads("[" * 40 + "]" * 40)),
  "NaN": put("train", "learning_rate", value=float("nan")),
  "infinite": put("train", "learning_rate", value=float("inf")),
  "too large a number": lambda whole: whole.replace("0.005", "1e999"),
  "too long a number": lambda whole: whole.replace('"steps": 8', f'"steps": 1{"0" * 5000}'),
  "a key twice": lambda whole: whole.replace('"seed": 0', '"seed": 0, "seed": 1'),
  "a section twice": lambda whole: whole.rstrip()[:-1] + ', "train": {}}',
  "no section": changed(lambda tree: tree.pop("sampler")),
  "no key": changed(lambda tree: tree["train"].pop("seed")),
  "a word for a number": put("train", "steps", value="8"),
  "a number for a section": put("sampler", value=3),
  "a list for a section": put("train", value=[]),
  "a method's name": put("model", "__class__", value="x"),
  "a dotted name": put("model", "a.b", value=1),
  "an object for a word": put("train", "decay", value={}),
  "huge": lambda whole: whole + " " * 2**20,
}
NO_MODEL = {
  "no name": put("model", "name", value=""),
  "another network": put("model", "name", value="os.system"),
  "a list for a name": put("model", "name", value=["unet"]),
  "an object for a name": put("model", "name", value={"unet": 1}),
  "a long name": put("model", "name", value="\n" * 10**5),
  "an unknown field": put("model", "widht", value=8),
  "a word for a size": put("model", "width", value="8"),
  "huge width": put("model", "width", value=10**9),
  "endless width": put("model", "width", value=10**400),
  "negative width": put("model", "width", value=-8),
  "broken width": put("model", "width", value=8.5),
  "half a thousand levels": put("model", "multipliers", value=[1] * 500),
  "many levels": put("model", "multipliers", value=[1] * 10**5),
  "words for levels": put("model", "multipliers", value="1"),
  "nested levels": put("model", "multipliers", value=[[1]]),
  "endless blocks": put("model", "blocks_per_level", value=10**12),
  "endless classes": put("model", "num_classes", value=10**15),
  "a number for names": put("model", "perturbed_blocks", value=5),
  "an unknown dtype": put("model", "dtype", value="object"),
  "endless schedule": put("schedule", value={"name": "linear", "num_steps": 10**12}),
  "words for a schedule": put("schedule", value={"name": "edm", "t_max": "x"}),
  "a callable's name": put("schedule", value={"name": "edm", "sigma": "os.system"}),
  "endless sampling": put("sampler", "steps", value=10**12),
  "another sampler": put("sampler", "name", value="__import__('os')"),
  "endless grid": put("sampler", "grids", value={"9" * 12: {"name": "karras"}}),
  "a grid for no number": put("sampler", "grids", value={"x": {"name": "karras"}}),
  "a grid that is none": put("sampler", "grids", value={"1": 3}),
  "many averages": put("ema", "decays", value=[0.9] * 10**5),
  "averages in words": put("ema", "decays", value=["x"]),
  "no channels": put("data", "channels", value=0),
  "endless channels": put("data", "channels", value=10**15),
  "endless pictures": put("data", "image_size", value=10**15),
  "another optimizer": put("train", "optimizer", value="eval"),
  "endless seed": put("train", "seed", value=10**30),
  "another decay": put("train", "decay", value="x"),
}


@pytest.mark.parametrize("kind", NO_CONFIG | NO_MODEL)
def test_hostile_json_is_one_sentence(kind, workdir, monkeypatch):
  monkeypatch.chdir(workdir)
  text = (NO_CONFIG | NO_MODEL)[kind]((workdir / "config.json").read_text())
  (workdir / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
  before = sorted(os.listdir(workdir))
  says = "is not a valid run config" if kind in NO_CONFIG else "config.json defines no valid model"
  with pytest.raises(ValueError, match=says) as error:
    runs.load_run(workdir)
  assert str(error.value).isprintable() and len(str(error.value)) < 1000
  assert sorted(os.listdir(workdir)) == before


@pytest.mark.parametrize("kind", ["deep", "deep within", "too long a number", "huge", "many levels"])
def test_reading_hostile_json_is_quick(kind, workdir):
  text = (NO_CONFIG | NO_MODEL)[kind]((workdir / "config.json").read_text())
  (workdir / "config.json").write_text(text)
  with Bounded(), pytest.raises(ValueError):
    config = runs.read_config(workdir)
    from_config.check(config)


def test_keys_that_nobody_reads_do_no_harm(workdir):
  text = put("to_json", value="x")(put("\ud800\n\x1b[2J", value={"get": [1]})((workdir / "config.json").read_text()))
  (workdir / "config.json").write_text(text)
  assert runs.load_run(workdir).step == 0


def test_a_pipe_for_a_config_does_not_hang(workdir):
  (workdir / "config.json").unlink()
  os.mkfifo(workdir / "config.json")
  with pytest.raises(FileNotFoundError, match="holds no run"):
    runs.load_run(workdir)


ODD = [None, True, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -1e300, "", "x", "eval('1')", [], [1], [[]], {}, {"name": "x"}]
FITTING = [2, 3, 8, 0.1, 0.9, False, [1, 2], "adam", "heun", "ddpm", {"1": {"name": "karras"}}]


def places(tree, keys=()):
  for key, value in tree.items():
    yield (*keys, key)
    if isinstance(value, dict):
      yield from places(value, (*keys, key))


@pytest.mark.parametrize("trials", [40, pytest.param(3000, marks=pytest.mark.soak)])
def test_any_value_anywhere(trials, tiny, tmp_path):
  """Each trial puts one odd value at one or two places of a config."""
  whole = tiny().to_json()
  where = list(places(json.loads(whole)))

  def attempt(rng: random.Random):
    text = whole
    for _ in range(rng.choice([1, 2])):
      try:
        text = put(*rng.choice(where), value=rng.choice(rng.choice([ODD, FITTING])))(text)
      except (KeyError, TypeError):  # the first change took the place away
        pass
    (tmp_path / "config.json").write_text(text)
    try:
      run_folder._target(tmp_path, runs.read_config(tmp_path))
    except ValueError as error:
      assert str(error).isprintable() and len(str(error)) < 1000
      return "refused"
    return "a model"

  outcomes = endure("odd values in a config", trials, attempt, most_seconds=20, most_bytes=2**30)
  assert outcomes["refused"] > trials / 4


def test_a_config_is_told_apart_from_code():
  """The JSON of our own configs contains nothing that is refused."""
  for config in (configuration.default_config(), configuration.default_clip_config()):
    assert not configuration.differences(config, configuration.from_json(config.to_json()))
