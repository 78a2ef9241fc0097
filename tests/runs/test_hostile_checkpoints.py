"""Untrusted checkpoints: restoring executes nothing from them and reads nothing outside their folder."""

import builtins
import json
import os
import pathlib
import pickle
import shutil

import jax
import numpy as np
import pytest
from mutations import Bounded, damage, endure

from diffjax.runs import checksums
from diffjax.runs.checkpoints import Checkpoints, DamagedCheckpoint

STATE = {"kernel": np.arange(12, dtype=np.float32).reshape(3, 4), "step": np.int32(7), "ema": (np.ones(2, np.float32),)}
TARGET = jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, STATE))


class Bomb:
  def __reduce__(self):
    return pathlib.Path.touch, (pathlib.Path(os.environ["BOMB"]),)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  folder = tmp_path_factory.mktemp("checkpoints")
  checkpoints = Checkpoints(folder, 1)
  checkpoints.save(3, STATE, {"width": 8}, {"next": 3}, 0.5)
  checkpoints.close()
  return folder


@pytest.fixture
def given(written, tmp_path, monkeypatch):
  """The folder of step 3, to tamper with."""
  monkeypatch.setenv("BOMB", str(tmp_path / "ran"))
  return shutil.copytree(written, tmp_path / "given") / "3"


def sign(step):
  """Recomputes the checksums, as an attacker would after tampering."""
  checksums.write(step)


def restore(step):
  checkpoints = Checkpoints(step.parent, read_only=True)
  try:
    return checkpoints.restore(int(step.name), TARGET)
  finally:
    checkpoints.close()


@pytest.fixture
def no_pickle(monkeypatch):
  """Fails on any unpickling, and on executing or importing anything planted."""

  def refuse(*arguments, **options):
    raise AssertionError("something was unpickled")

  class Unpickler:
    __init__ = refuse

  for name, fake in {"load": refuse, "loads": refuse, "Unpickler": Unpickler}.items():
    monkeypatch.setattr(pickle, name, fake)
  for name in ("eval", "exec"):
    monkeypatch.setattr(builtins, name, _guarded(getattr(builtins, name)))


def _guarded(run):
  def guarded(code, *arguments, **options):
    assert "planted" not in str(code)
    return run(code, *arguments, **options)

  return guarded


def test_no_pickle_is_opened_in_restoring(given, no_pickle):
  """Restoring an intact checkpoint uses no pickle at all."""
  state, _ = restore(given)
  jax.tree.map(np.testing.assert_array_equal, state, STATE)


def test_pickles_in_place_of_any_file_are_not_run(written, given, tmp_path):
  bomb = pickle.dumps(Bomb())
  names = [str(path.relative_to(given)) for path in sorted(given.rglob("*")) if path.is_file()]
  assert len(names) > 5
  for name in names:
    shutil.rmtree(given)
    shutil.copytree(written / "3", given)
    (given / name).write_bytes(bomb)
    if name != checksums.FILE:
      sign(given)
    try:
      state, _ = restore(given)
    except (DamagedCheckpoint, OSError) as error:
      assert str(error).count("\n") == 0
    else:
      jax.tree.map(np.testing.assert_array_equal, state, STATE)
    assert not (tmp_path / "ran").exists()
  pickle.loads(bomb)
  assert (tmp_path / "ran").exists()


def test_handlers_named_in_the_metadata_are_not_imported(given, tmp_path, monkeypatch):
  (tmp_path / "planted.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
  monkeypatch.syspath_prepend(tmp_path)
  changed = 0
  for path in given.rglob("*"):
    if path.is_file() and path.name in ("_CHECKPOINT_METADATA", "_METADATA", "metadata", "_sharding"):
      text = path.read_text().replace("orbax.checkpoint", "planted").replace("StandardCheckpointHandler", "Handler")
      changed += text != path.read_text()
      path.write_text(text)
  sign(given)
  assert changed
  try:
    restore(given)
  except DamagedCheckpoint:
    pass
  assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
  "names",
  [
    {"../../outside": "0"},
    {"{outside}": "0"},
    {"state/../../../outside": "0"},
    {"/dev/zero": "0"},
    {"/dev/stdin": "0"},
    {"pipe": "0"},
    {"\0": "0"},
    {"x" * 5000: "0"},
    {"": "0"},
    {"\n\x1b[2J": "0"},
    {"run/metadata": None},
    {"run/metadata": {"a": 1}},
  ],
)
def test_checksums_name_only_files_of_the_checkpoint(names, given, monkeypatch):
  outside = given.parent.parent / "outside"
  outside.write_text("secret")
  os.mkfifo(given / "pipe")
  names = {name.format(outside=outside) if "{" in name else name: sum for name, sum in names.items()}
  read = []
  whole = checksums.checksum
  monkeypatch.setattr(checksums, "checksum", lambda path: read.append(path) or whole(path))
  (given / checksums.FILE).write_text(json.dumps(names))
  with Bounded(), pytest.raises(DamagedCheckpoint) as error:
    restore(given)
  assert str(error.value).isprintable() and len(str(error.value)) < 600
  assert all(path.resolve().is_relative_to(given) for path in read)


@pytest.mark.parametrize("text", ["", "[]", "3", "null", "[" * 100_000, '{"a":' * 100_000, '{"a": NaN}', "\ud800"])
def test_checksums_that_are_none(text, given):
  (given / checksums.FILE).write_bytes(text.encode("utf-8", "surrogatepass"))
  with Bounded(), pytest.raises(DamagedCheckpoint, match=r"checksums\.json cannot be read"):
    restore(given)


def contents(given):
  return given / "run" / "metadata"


@pytest.mark.parametrize(
  "leaves",
  [
    None, 3, "x", [], {}, {"kernel": 3}, {"kernel": None}, {"kernel": [[3, 4]]}, {"kernel": [[3, 4], "float32", 1]},
    {"kernel": [[10**400], "float32"]}, {"\n\x1b[2J": [[1], "x"]}, {"x" * 10**6: [[1], "x"]},
  ],
)  # fmt: skip
def test_leaves_that_are_none(leaves, given):
  tree = json.loads(contents(given).read_text())
  contents(given).write_text(json.dumps(tree | {"leaves": leaves}))
  sign(given)
  with Bounded(), pytest.raises((ValueError, OSError)) as error:
    restore(given)
  assert str(error.value).isprintable() and len(str(error.value)) < 1000


@pytest.mark.parametrize("value", [[], 3, None, {}, {"config": 1}])
def test_contents_that_are_none(value, given):
  contents(given).write_text(json.dumps(value))
  sign(given)
  with Bounded(), pytest.raises((ValueError, OSError)) as error:
    restore(given)
  assert str(error.value).isprintable() and len(str(error.value)) < 1000


@pytest.mark.parametrize("trials", [30, pytest.param(1000, marks=pytest.mark.soak)])
def test_mutations_of_signed_checkpoints(trials, written, tmp_path):
  """Tampering with matching checksums gives an error, or a state of the right shapes."""
  names = checksums.files(written / "3")

  def attempt(rng):
    step = tmp_path / "run" / "3"
    shutil.rmtree(step.parent, ignore_errors=True)
    shutil.copytree(written, step.parent)
    path = step / rng.choice(names)
    path.write_bytes(damage(rng, path.read_bytes()))
    sign(step)
    try:
      state, _ = restore(step)
    except (ValueError, OSError) as error:
      assert str(error).isprintable() and len(str(error)) < 1000
      return "refused"
    assert jax.tree.map(np.shape, state) == jax.tree.map(np.shape, STATE)
    return "read"

  outcomes = endure("mutations of signed checkpoints", trials, attempt, most_seconds=10)
  assert outcomes["refused"]


def test_a_state_that_lacks_a_leaf_is_never_filled_up(given):
  """As orbax would with whatever lies in the buffers."""
  metadata = given / "state" / "_METADATA"
  tree = json.loads(metadata.read_text())
  tree["tree_metadata"].pop(next(iter(tree["tree_metadata"])))
  metadata.write_text(json.dumps(tree))
  sign(given)
  with pytest.raises((DamagedCheckpoint, OSError), match="cannot be read"):
    restore(given)
