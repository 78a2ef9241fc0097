"""kill -9 at any moment: the same command resumes the run, which ends in the exact state of one never killed."""

import contextlib
import itertools
import pathlib
import time

import numpy as np
import pytest
from outcomes import assert_same_run, seen

RECORDED = "tests/cluster/faults/recorded_train.py"
TRAIN = dict(checkpoint_every=50, log_every=500, steps_per_call=10)


def writing(workdir: pathlib.Path) -> set[tuple]:
  """Checkpoints that are incomplete: being written now, or when a process was killed."""
  found = set()
  for path in workdir.glob("*/*.orbax-checkpoint-tmp*"):
    with contextlib.suppress(FileNotFoundError):
      found.add((path, path.stat().st_ino))  # the next process writes under the same name
  return found


def kill_later(process, workdir, seconds, during_save) -> str | None:
  """Kills a process that many seconds into a save or the run; "save", "other", or None if it exited before."""
  before, begin = writing(workdir), time.monotonic()
  if during_save:
    while process.poll() is None and not writing(workdir) - before:
      time.sleep(0.0005)
    begin = time.monotonic()
  while process.poll() is None and time.monotonic() < begin + seconds:
    time.sleep(0.0005)
  process.kill()
  out, err = process.communicate()
  if process.returncode == 0:
    return None
  assert process.returncode == -9, (out, err)
  return "save" if writing(workdir) - before else "other"


def soak(launch, config, tmp_path, train, kills, during_saves, seed):
  """Kills runs until there were so many kills, and so many during a save: ({where: kills}, runs, seconds)."""
  whole = tmp_path / "whole"
  begin = time.monotonic()
  process = launch(whole, RECORDED, tmp_path / "whole.txt", **train)
  while not (whole / "metrics.jsonl").exists():
    time.sleep(0.01)
  startup = time.monotonic() - begin
  assert process.wait() == 0, process.communicate()
  reference = seen(tmp_path / "whole.txt")
  assert sorted(reference) == list(range(train["steps"]))

  rng, counts = np.random.default_rng(seed), {"save": 0, "other": 0}
  for run in itertools.count(1):
    workdir, record = tmp_path / f"run{run}", tmp_path / f"run{run}.txt"
    while True:
      process = launch(workdir, RECORDED, record, **train)
      if sum(counts.values()) >= kills and counts["save"] >= during_saves:
        assert process.wait() == 0, process.communicate()
        break
      during_save = counts["save"] < during_saves and rng.random() < 0.6
      moment = rng.uniform(0, 0.06) if during_save else rng.uniform(0, 2 * startup)
      happened = kill_later(process, workdir, moment, during_save)
      if happened is None:
        break
      counts[happened] += 1
    assert_same_run(workdir, whole, config)
    assert seen(record) == reference
    if sum(counts.values()) >= kills and counts["save"] >= during_saves:
      return counts, run, time.monotonic() - begin


@pytest.mark.soak
@pytest.mark.parametrize(("steps", "kills", "during_saves"), [(600, 3, 1), (2000, 50, 20)])
def test_killed_runs_are_those_never_killed(launch, tiny, tmp_path, capsys, steps, kills, during_saves, seed=0):
  train = TRAIN | {"steps": steps}
  counts, runs, seconds = soak(launch, tiny(**train), tmp_path, train, kills, during_saves, seed)
  with capsys.disabled():
    print(f"\nkill -9, seed {seed}: {sum(counts.values())} trials {counts}, {runs} runs, 0 failures, {seconds:.0f} s")
