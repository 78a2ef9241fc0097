"""A disk that fills up or turns read-only: one sentence within a save interval, and the run resumes."""

import contextlib
import resource
import shutil
import subprocess
import time

import pytest
from outcomes import assert_same_run, newest

TRAIN = dict(steps=600, checkpoint_every=50, log_every=50, steps_per_call=10, sample_every=0)


@pytest.fixture
def disk(tmp_path):
  """A disk of 16 MB."""
  folder = tmp_path / "disk"
  folder.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder]
  if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
    pytest.skip("a small disk takes the right to mount one")
  yield folder
  subprocess.run(["umount", folder], check=True)


def fill(disk):
  with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
    while True:
      file.write(bytes(2**12))


def until_saved(process, workdir, step):
  while process.poll() is None and not (workdir / "checkpoints" / str(step)).exists():
    time.sleep(0.001)
  assert process.poll() is None, process.communicate()


def assert_one_sentence(process):
  out, err = process.communicate(timeout=60)
  assert process.returncode == 1 and err.startswith("error: ") and err.count("\n") == 1, (out, err)
  return err


@pytest.fixture(scope="module")
def whole(launch, tmp_path_factory):
  """The folder of a run without a fault."""
  folder = tmp_path_factory.mktemp("runs") / "whole"
  launch(folder, **TRAIN).communicate()
  return folder


def assert_goes_on(launch, workdir, whole, config):
  """The same command ends in the state of a run without a fault."""
  left = int(newest(workdir, config)[0].step)
  assert 50 <= left < TRAIN["steps"]
  out, err = launch(workdir, **TRAIN).communicate()
  assert f"resuming from step {left}\n" in out and not err
  assert_same_run(workdir, whole, config)


@pytest.mark.slow
def test_disk_that_fills_up_in_a_run(launch, tiny, disk, whole):
  process = launch(disk / "run", **TRAIN)
  until_saved(process, disk / "run", 50)
  fill(disk)
  assert_one_sentence(process)
  assert_one_sentence(launch(disk / "run", **TRAIN))  # while the disk is still full
  (disk / "filler").unlink()
  assert_goes_on(launch, disk / "run", whole, tiny(**TRAIN))


@pytest.mark.soak
def test_folder_that_is_read_only_when_a_run_goes_on(launch, tiny, disk, whole):
  process = launch(disk / "run", **TRAIN)
  until_saved(process, disk / "run", 50)
  process.kill()
  process.communicate()
  subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
  assert_one_sentence(launch(disk / "run", **TRAIN))
  subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
  assert_goes_on(launch, disk / "run", whole, tiny(**TRAIN))


@pytest.mark.slow
def test_no_room_shows_before_the_first_step(launch, disk):
  (disk / "filler").write_bytes(bytes(15 * 2**20))
  err = assert_one_sentence(launch(disk / "run", **TRAIN))
  assert "the disk is full: a checkpoint in" in err and not (disk / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_files_that_can_grow_no_more_in_a_run(launch, tiny, tmp_path, whole):
  """As with a quota, in the middle of a file; needs no permission to mount."""
  process = launch(tmp_path / "run", **TRAIN)
  until_saved(process, tmp_path / "run", 50)
  resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (10_000, 10_000))
  _, err = process.communicate(timeout=60)
  said = "error: cannot write a checkpoint in"  # among the output of the writing threads
  assert process.returncode == 1 and said in err, err[-2000:]
  assert_goes_on(launch, tmp_path / "run", whole, tiny(**TRAIN))
