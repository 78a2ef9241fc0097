"""train.py as two processes: any one that is stopped, fails or hangs ends both, and they go on."""

import pathlib
import re
import signal
import subprocess
import sys
import time

import processes
import pytest
from outcomes import newest

ROOT = pathlib.Path(__file__).parents[2]
TESTS = ROOT / "tests"
HELD = TESTS / "faults" / "held_train.py"
TRAIN = dict(steps=24, checkpoint_every=6, sample_every=4, log_every=2, steps_per_call=2)
SECONDS = 25
STUCK_AFTER = 6


@pytest.fixture
def start(tiny_data):
  """start(workdir, *program) starts train.py as two processes, or `program` and its arguments."""
  started = []

  def start(workdir, *program, **train):
    arguments = [f"--config={TESTS / 'tiny_config.py'}", f"--config.data.data_dir={tiny_data}", f"--workdir={workdir}"]
    arguments += [f"--config.train.{name}={value}" for name, value in (TRAIN | train).items()]
    arguments += [f"--coordinator={processes.free_address()}", "--num_processes=2"]
    command = [sys.executable, *map(str, program or (ROOT / "train.py",)), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    begun = [subprocess.Popen([*command, f"--process_id={i}"], env=processes.environment(1), **pipes) for i in range(2)]
    started.extend(begun)
    return begun

  yield start
  for process in started:
    process.kill()


def until_held(process):
  while (line := process.stdout.readline()) != "held\n":
    assert line, process.communicate()


def finish(begun, timeout=SECONDS):
  begin = time.monotonic()
  ended = processes.finish(begun, timeout)
  return ended, time.monotonic() - begin


def assert_goes_on(start, workdir, config, saved):
  """The same command goes on from step `saved`, or from any where that is None, to the end."""
  ended, _ = finish(start(workdir), 120)
  assert [(code, err) for code, _, err in ended] == [(0, "")] * 2
  assert saved is None or ("going on from step" in ended[0][1]) == bool(saved)
  assert not saved or f"from step {saved}\n" in ended[0][1]
  assert newest(workdir, config)[0].step == TRAIN["steps"]


PHASES = ("start", "compile", "step", "evaluation", "sampling", "save")


def held_and_asked(phases):
  """[(phase, the process that is held up in it, the one that is asked to stop)]; every second is for the soak."""
  pairs = lambda phase: [(0, 1), (0, 0)] if phase == "save" else [(1, 0), (0, 1)]  # the first alone signs checkpoints
  marks = pytest.mark.slow, pytest.mark.soak
  return [pytest.param(phase, *pair, marks=mark) for phase in phases for pair, mark in zip(pairs(phase), marks)]


@pytest.mark.parametrize(("phase", "held", "asked"), held_and_asked(PHASES))
def test_any_one_that_is_asked_stops_all_and_all_is_saved(start, tiny, tmp_path, phase, held, asked):
  begun = start(tmp_path, HELD, f"{phase}@{held}", 3, 15)
  until_held(begun[held])
  begun[asked].send_signal(signal.SIGTERM)
  ended, _ = finish(begun)
  assert [code for code, _, _ in ended] == [128 + signal.SIGTERM] * 2, ended
  if phase == "start":
    assert f"process {asked} of 2 was stopped by SIGTERM\n" in ended[1 - asked][2]
  else:
    assert "all saved; the same command goes on from there" in ended[0][1] and not ended[0][2] + ended[1][2], ended
  saved = re.search(r"stopped at step (\d+)", ended[0][1])
  assert_goes_on(start, tmp_path, tiny(**TRAIN), int(saved[1]) if saved else 0)


@pytest.mark.parametrize(("phase", "held", "asked"), held_and_asked(PHASES[:-1]))
def test_a_long_phase_is_left_by_all(start, tiny, tmp_path, phase, held, asked):
  begun = start(tmp_path, HELD, f"{phase}@{held}", 200, 2)
  until_held(begun[held])
  begun[asked].send_signal(signal.SIGTERM)
  ended, seconds = finish(begun)
  assert [code for code, _, _ in ended] == [128 + signal.SIGTERM] * 2 and seconds < SECONDS - 13, ended
  assert ended[asked][2] == "" and ended[1 - asked][2] == f"process {asked} of 2 was stopped by SIGTERM\n"
  assert_goes_on(start, tmp_path, tiny(**TRAIN), None)


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "failing"), [("start", 1), ("evaluation", 0), ("save", 0)])
def test_one_that_fails_tells_the_others(start, tiny, tmp_path, phase, failing):
  ended, seconds = finish(begun := start(tmp_path, HELD, f"{phase}@{failing}", "fail", 15), 60)
  assert [process.returncode for process in begun] == [1, 1] and seconds < 60
  own, other = ended[failing][2], ended[1 - failing][2]
  assert own.startswith("error: ") and own.count("\n") == 1 and "the disk is on fire" in own
  assert other == own.replace("error: ", f"error: process {failing} of 2 has failed: ")
  assert_goes_on(start, tmp_path, tiny(**TRAIN), None)


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "stuck"), [("step", 1), ("step", 0), ("save", 0)])
def test_the_others_report_one_that_hangs_and_leave(start, tiny, tmp_path, phase, stuck):
  """While it trains our own watch notices, with step and stacks, else JAX's, which aborts with the stacks."""
  begun = start(tmp_path, HELD, f"{phase}@{stuck}", 2, 15, STUCK_AFTER)
  until_held(begun[stuck])
  begun[stuck].send_signal(signal.SIGSTOP)
  (ended,), seconds = finish([begun[1 - stuck]], STUCK_AFTER + 30)
  assert seconds < STUCK_AFTER + 30
  code, _, err = ended
  assert re.search(r"  File .*train.py\", line \d+ in continue_run\n", err), err
  if phase == "step":
    assert code == 75 and re.match(rf"error: process {1 - stuck} of 2 waits in vain: since step \d+, ", err), err
  else:
    assert code in (75, -signal.SIGABRT), err
  begun[stuck].kill()
  begun[stuck].communicate()
  assert_goes_on(start, tmp_path, tiny(**TRAIN), None)
