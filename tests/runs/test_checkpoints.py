"""Checkpoints: restored as saved, and after any damage the previous one is used."""

import os
import pathlib
import shutil
import subprocess
import sys
import time
import warnings

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from diffjax import DiffjaxWarning
from diffjax.runs import checksums
from diffjax.runs.checkpoints import Checkpoints, DamagedCheckpoint
from diffjax.training.step import init_state

STATE = {
  "params": {"kernel": np.arange(12, dtype=np.float32).reshape(3, 4), "half": np.arange(3).astype(ml_dtypes.bfloat16)},
  "step": np.int32(7),
  "ema": (np.ones(2, np.float32), {}),
}
TARGET = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, STATE))


def at_step(step):
  return jax.tree.map(lambda a: np.asarray(a + np.asarray(step, a.dtype)), STATE)


def write(folder, steps=(1, 2, 3), keep=3):
  checkpoints = Checkpoints(folder, keep)
  for step in steps:
    checkpoints.save(step, at_step(step), {"width": 8}, {"next": step}, 0.5)
  checkpoints.close()
  return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  return write(tmp_path_factory.mktemp("checkpoints"))


def newest(folder, **options):
  checkpoints = Checkpoints(folder, **options)
  try:
    return checkpoints.restore_newest(TARGET)
  finally:
    checkpoints.close()


def test_round_trip_is_exact(written):
  state, contents = newest(written, read_only=True)
  assert jax.tree.structure(state) == jax.tree.structure(at_step(3))
  for saved, restored in zip(jax.tree.leaves(at_step(3)), jax.tree.leaves(state)):
    assert isinstance(restored, np.ndarray) and restored.dtype == saved.dtype
    np.testing.assert_array_equal(saved, restored)
  assert (contents["config"], contents["data"]) == ({"width": 8}, {"next": 3})


def test_only_the_fields_asked_for_are_read(tmp_path):
  state = jax.tree.map(np.asarray, init_state({"kernel": jnp.arange(6.0)}, optax.adam(1.0), num_ema=1))
  target = jax.eval_shape(lambda: state)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(3, state, {}, {}, 0.5)
  checkpoints.wait()
  found, _ = checkpoints.restore_newest(target, fields=("step", "ema"))
  checkpoints.close()
  np.testing.assert_array_equal(found.averaged["kernel"], np.arange(6.0))
  assert found.step == 0 and (found.params, found.opt_state) == (target.params, target.opt_state)


def test_latest_are_kept(tmp_path):
  write(tmp_path, steps=(1, 2, 3, 4), keep=2)
  assert sorted(os.listdir(tmp_path)) == ["3", "4"]


def test_best_is_kept_apart_from_latest(tmp_path):
  best = Checkpoints(tmp_path, best=True)
  for step, loss in enumerate([0.5, float("nan"), 0.2, 0.4, float("inf"), 0.2]):
    best.save_if_best(step, at_step(step), {}, {}, loss)
  best.close()
  assert os.listdir(tmp_path) == ["2"]


def test_nothing_but_nan_is_never_the_best(tmp_path):
  best = Checkpoints(tmp_path, best=True)
  best.save_if_best(1, at_step(1), {}, {}, float("nan"))
  best.save_if_best(2, at_step(2), {}, {}, 3.0)
  best.close()
  assert os.listdir(tmp_path) == ["2"]


def test_step_that_is_there_stays(written, tmp_path):
  shutil.copytree(written, tmp_path, dirs_exist_ok=True)
  checkpoints = Checkpoints(tmp_path, 3)
  checkpoints.save(3, at_step(100), {}, {"next": 100}, 0.1)
  checkpoints.close()
  assert newest(tmp_path)[1]["data"] == {"next": 3}


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path, part=0.5, bit=0):
  data = bytearray(path.read_bytes())
  if data:
    data[int((len(data) - 1) * part)] ^= 1 << bit
    path.write_bytes(data)


DAMAGES = {
  "truncated": truncate,
  "emptied": lambda path: path.write_bytes(b""),
  "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
  "missing": pathlib.Path.unlink,
  "first bit flipped": lambda path: flip(path, 0, 7),
  "a bit flipped": flip,
  "last bit flipped": lambda path: flip(path, 1),
}


def files_that_matter(checkpoint):
  """All but the metadata that orbax writes at the end, which is never read back."""
  ends = ("commit_success.txt", "_CHECKPOINT_METADATA")
  return [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name not in ends]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_any_damaged_file_falls_back_to_the_one_before(written, tmp_path, damage, capfd):
  names = [path.relative_to(written / "3") for path in files_that_matter(written / "3")]
  assert len(names) > 5
  for i, name in enumerate(names):
    folder = tmp_path / str(i)
    shutil.copytree(written, folder)
    damage(folder / "3" / name)
    with pytest.warns(DiffjaxWarning, match=r"checkpoint .*3 is damaged: .*, so the one before it is used\.$"):
      state, contents = newest(folder, read_only=True)
    assert contents["data"] == {"next": 2}
    jax.tree.map(np.testing.assert_array_equal, state, at_step(2))
    assert sorted(os.listdir(folder)) == ["1", "2", "3"]  # reading changes nothing
  assert not capfd.readouterr().err


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_orbax_notes_last_may_be_lost(written, tmp_path, damage, read_only):
  for i, name in enumerate(("commit_success.txt", "_CHECKPOINT_METADATA")):
    if (written / "3" / name).exists():
      shutil.copytree(written, tmp_path / str(i))
      damage(tmp_path / str(i) / "3" / name)
      state, contents = newest(tmp_path / str(i), read_only=read_only)
      assert contents["data"] == {"next": 3}
      jax.tree.map(np.testing.assert_array_equal, state, at_step(3))


def test_a_run_puts_damaged_ones_aside_and_writes_them_again(written, tmp_path):
  folder = shutil.copytree(written, tmp_path / "run")
  for step in ("2", "3"):
    truncate(files_that_matter(folder / step)[-1])
  for again in range(2):
    checkpoints = Checkpoints(folder, 3)
    with warnings.catch_warnings(record=True) as told:
      warnings.simplefilter("always")
      _, contents = checkpoints.restore_newest(TARGET)
    assert len(told) == 2 - 2 * again and contents["data"] == {"next": 1 + 2 * again}
    checkpoints.save(3, at_step(3), {}, {"next": 3}, 0.5)
    checkpoints.close()
  assert sorted(os.listdir(folder)) == ["1", "3", "damaged-2", "damaged-3"]


def test_all_damaged(written, tmp_path):
  folder = shutil.copytree(written, tmp_path / "run")
  for step in "123":
    truncate(files_that_matter(folder / step)[-1])
  with pytest.warns(DiffjaxWarning), pytest.raises(DamagedCheckpoint, match="no earlier one is intact; start"):
    newest(folder)


def test_damaged_best_gives_way(tmp_path):
  for lost in ("metrics/metrics", "state/manifest.ocdbt"):
    folder = tmp_path / lost.split("/")[0]
    best = Checkpoints(folder, best=True)
    best.save_if_best(1, at_step(1), {}, {}, 0.1)
    best.close()
    truncate(folder / "1" / lost)
    with pytest.warns(DiffjaxWarning, match="damaged"):
      best = Checkpoints(folder, best=True)
    best.save_if_best(2, at_step(2), {}, {}, 0.7)
    best.close()
    assert sorted(os.listdir(folder)) == ["2", "damaged-1"]


@pytest.mark.parametrize("left", ["state", "metrics", None])
def test_what_an_interrupted_deletion_left_of_a_former_best_is_removed(tmp_path, left):
  best = Checkpoints(tmp_path, best=True)
  best.save_if_best(2, at_step(2), {}, {}, 0.1)
  best.close()
  former = shutil.copytree(tmp_path / "2", tmp_path / "1")
  for part in former.iterdir():
    if part.name != left:
      shutil.rmtree(part) if part.is_dir() else part.unlink()
  with warnings.catch_warnings(action="error"):
    Checkpoints(tmp_path, best=True).close()
  assert os.listdir(tmp_path) == ["2"]


@pytest.mark.parametrize(
  ("change", "says"),
  [
    ({"step": jax.ShapeDtypeStruct((), jnp.float32)}, r"holds int32\[\] at step, .* asks for float32\[\]"),
    ({"extra": jax.ShapeDtypeStruct((2,), jnp.int8)}, r"holds nothing at extra, .* asks for int8\[2\]"),
    ({"ema": ()}, r"holds float32\[2\] at ema/0, .* asks for nothing"),
  ],
)
def test_other_leaves_are_refused(written, change, says):
  checkpoints = Checkpoints(written, read_only=True)
  with pytest.raises(ValueError, match=says) as caught:
    checkpoints.restore_newest(TARGET | change)
  assert not isinstance(caught.value, DamagedCheckpoint)
  checkpoints.close()


def test_other_leaves_are_refused_with_the_keys_that_differ(written):
  checkpoints = Checkpoints(written, read_only=True)
  with pytest.raises(ValueError, match=r"differs in \(key: there, here\) wide: nothing, \[1\] and width: 8, 9\.$"):
    checkpoints.restore_newest(TARGET | {"step": jax.ShapeDtypeStruct((), jnp.int8)}, {"width": 9, "wide": (1,)})
  checkpoints.close()


def test_empty_folder(tmp_path):
  assert newest(tmp_path) is None


def test_unfinished_writing_is_cleared_away(written, tmp_path):
  folder = shutil.copytree(written, tmp_path / "run")
  shutil.copytree(folder / "3", folder / "4.orbax-checkpoint-tmp")
  assert newest(folder)[1]["data"] == {"next": 3}
  limit = time.monotonic() + 10  # the system may take a moment over a folder's removal
  while len(os.listdir(folder)) > 3 and time.monotonic() < limit:
    time.sleep(0.05)
  assert sorted(os.listdir(folder)) == ["1", "2", "3"]


def test_full_disk_is_noticed_before_writing(tmp_path, monkeypatch):
  checkpoints = Checkpoints(tmp_path, 3)
  checkpoints.save(1, at_step(1), {}, {}, 0.5)
  checkpoints.wait()
  monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
  with pytest.raises(OSError, match=r"disk is full: .* needs 1\.0 MiB, but 0\.0 MiB are free; make room"):
    checkpoints.save(2, at_step(2), {}, {}, 0.5)
  checkpoints.close()
  assert os.listdir(tmp_path) == ["1"]


OUT_OF_MEMORY = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), ValueError("UNAVAILABLE"), OUT_OF_MEMORY])
def test_what_cannot_be_read_for_another_reason_is_not_damaged(written, tmp_path, monkeypatch, error):
  shutil.copytree(written, tmp_path, dirs_exist_ok=True)
  run = Checkpoints(tmp_path, 3)

  def restore(*args, **kwargs):
    raise error

  monkeypatch.setattr(run._reader, "restore", restore)
  with pytest.raises(type(error) if error is OUT_OF_MEMORY else OSError) as raised:
    run.restore_newest(TARGET)
  assert raised.value is error or f"/3 cannot be read ({error}), although" in str(raised.value)
  run.close()
  assert sorted(os.listdir(tmp_path)) == ["1", "2", "3"]


@pytest.mark.parametrize("called", ["_damage", "_read"])
def test_one_that_its_run_deletes_while_it_is_read_is_no_loss(written, tmp_path, monkeypatch, called):
  """As with `sample.py --best` next to a training run that finds a better checkpoint."""
  shutil.copytree(written / "1", tmp_path / "1")
  reader, begun = Checkpoints(tmp_path, read_only=True), []
  owner = checksums if called == "_damage" else reader
  function = getattr(owner, called)

  def replaced(*args, **kwargs):
    if not begun:
      begun.append(True)
      shutil.copytree(written / "2", tmp_path / "2")
      shutil.rmtree(tmp_path / "1")
    return function(*args, **kwargs)

  monkeypatch.setattr(owner, called, replaced)
  state, contents = reader.restore_newest(TARGET)
  reader.close()
  assert contents["data"] == {"next": 2} and begun
  jax.tree.map(np.testing.assert_array_equal, state, at_step(2))


def test_room_for_one_warns_and_is_enough(tmp_path, monkeypatch):
  """Each checkpoint is then completed before the next one begins."""
  state = {"w": np.zeros(2**20, np.uint8)}
  monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 5 * 2**19))
  checkpoints = Checkpoints(tmp_path, 3)
  with pytest.warns(DiffjaxWarning, match=r"has room for only one checkpoint, not for both .*; make room, or"):
    checkpoints.check_room(state)
  checkpoints.save(1, state, {}, {}, 0.5)
  assert (tmp_path / "1" / "checksums.json").exists()
  checkpoints.close()


FILL = """
import sys, numpy as np, jax, pathlib
from diffjax.runs.checkpoints import Checkpoints
from diffjax.cluster.command_line import reporting
with reporting():
  checkpoints = Checkpoints(pathlib.Path(sys.argv[1]), 9)
  for step in range(1, 9):
    checkpoints.save(step, {"w": np.random.default_rng(step).normal(size=10**5)}, {}, {"next": step}, 0.5)
    checkpoints.wait()
"""


@pytest.mark.slow
def test_disk_that_really_fills_up(tmp_path):
  disk = tmp_path / "disk"
  disk.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", disk]
  if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
    pytest.skip("a small disk takes the right to mount one")
  try:
    done = subprocess.run([sys.executable, "-c", FILL, disk], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: the disk is full")
    target = {"w": jax.ShapeDtypeStruct((10**5,), np.float64)}
    checkpoints = Checkpoints(disk, read_only=True)
    state, contents = checkpoints.restore_newest(target)
    np.testing.assert_array_equal(state["w"], np.random.default_rng(contents["data"]["next"]).normal(size=10**5))
    checkpoints.close()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    done = subprocess.run([sys.executable, "-c", FILL, disk], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
  finally:
    subprocess.run(["umount", disk], check=True)
