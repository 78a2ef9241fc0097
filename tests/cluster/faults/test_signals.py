"""Ctrl-C and SIGTERM in every phase: the run saves and exits in time, at once on a second signal, and resumes."""

import signal
import time

import pytest
from outcomes import assert_same_run, cases, newest

HELD = "tests/cluster/faults/held_train.py"
TRAIN = dict(steps=12, checkpoint_every=6, sample_every=4, log_every=2, steps_per_call=2)
SECONDS = 25  # slightly less than clouds grant a preempted machine


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory):
  return tmp_path_factory.mktemp("whole") / "run"


@pytest.fixture
def whole(launch, whole_folder):
  """The folder of a run that nobody stopped."""
  if not whole_folder.exists():
    out, err = launch(whole_folder, **TRAIN).communicate()
    assert "stopped" not in out and not err
  return whole_folder


def stop(process, *signals):
  """Sends signals once the process is held up; returns (exit code, stdout, stderr, seconds until exit)."""
  while (line := process.stdout.readline()) != "held\n":
    assert line, process.communicate()
  begin = time.monotonic()
  for signum in signals:
    process.send_signal(signum)
    time.sleep(0.3)
  out, err = process.communicate(timeout=100)
  return process.returncode, out, err, time.monotonic() - begin


def assert_goes_on(launch, workdir, whole, config, start):
  """The same command resumes from step `start` (None: any step) and ends in the state of an uninterrupted run."""
  out, err = launch(workdir, **TRAIN).communicate(timeout=100)
  assert not err
  if start is not None:
    assert ("resuming from step" in out) == bool(start) and (not start or f"from step {start}\n" in out)
  assert_same_run(workdir, whole, config)


SAVED = {"compile": 2, "step": 10, "evaluation": 6, "sampling": 4, "save": 6}


@cases(
  ("phase", "signum"),
  [(phase, signum) for phase in SAVED for signum in (signal.SIGINT, signal.SIGTERM)],
  slow=[("step", signal.SIGINT), ("save", signal.SIGTERM)],
)
def test_short_phase_is_finished_and_all_is_saved(launch, whole, tiny, tmp_path, phase, signum):
  saved = SAVED[phase]
  code, out, err, seconds = stop(launch(tmp_path, HELD, phase, 1, 15, **TRAIN), signum)
  assert (code, err) == (128 + signum, "") and f"stopped at step {saved}, state saved" in out and seconds < SECONDS
  assert newest(tmp_path, tiny(**TRAIN))[0].step == saved
  assert_goes_on(launch, tmp_path, whole, tiny(**TRAIN), saved)


LEFT = {"start": 0, "compile": 0, "step": 6, "evaluation": 6, "sampling": 4}


@cases(
  ("phase", "patience"),
  [(phase, patience) for phase in LEFT for patience in (2, 15)],
  slow=[("compile", 2), ("evaluation", 2)],
)
def test_long_phase_is_left_and_what_can_be_is_saved(launch, whole, tiny, tmp_path, phase, patience):
  saved = LEFT[phase]
  code, out, err, seconds = stop(launch(tmp_path, HELD, phase, 200, patience, **TRAIN), signal.SIGTERM)
  assert (code, err) == (128 + signal.SIGTERM, "") and seconds < SECONDS - 15 + patience
  assert phase == "start" or "the same command resumes from the last checkpoint" in out
  assert not saved or newest(tmp_path, tiny(**TRAIN))[0].step == saved
  assert_goes_on(launch, tmp_path, whole, tiny(**TRAIN), saved)


@pytest.mark.slow
def test_stop_saves_though_nobody_reads_any_more(launch, tiny, tmp_path):
  """Ctrl-C with `2>&1 | tee log` ends tee too."""
  train = dict(steps=10**6, checkpoint_every=10**5, log_every=10, steps_per_call=10, sample_every=0)
  process = launch(tmp_path, **train)
  while not (line := process.stdout.readline()).startswith("step 10/"):
    assert line, process.communicate()
  process.stdout.close()
  process.stderr.close()
  process.send_signal(signal.SIGINT)
  assert process.wait(100) == 128 + signal.SIGINT
  assert newest(tmp_path, tiny(**train))[0].step >= 10


@cases(
  ("phase", "saved"),
  [("compile", 0), ("step", 6), ("evaluation", None), ("sampling", 0), ("save", 0)],
  slow=[("step", 6), ("save", 0)],
)
def test_second_signal_stops_at_once_and_loses_nothing_saved(launch, whole, tiny, tmp_path, phase, saved):
  code, _, err, seconds = stop(launch(tmp_path, HELD, phase, 200, 15, **TRAIN), signal.SIGINT, signal.SIGINT)
  assert (code, err) == (128 + signal.SIGINT, "") and seconds < 3
  assert_goes_on(launch, tmp_path, whole, tiny(**TRAIN), saved)
