"""train.py as two processes: if either is stopped, fails or hangs, both exit, and the run resumes."""

import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
import several
from outcomes import cases, newest
from several import finish

ROOT = pathlib.Path(__file__).parents[3]
TESTS = ROOT / "tests"
HELD = TESTS / "cluster" / "faults" / "held_train.py"
TRAIN = dict(steps=24, checkpoint_every=6, sample_every=4, log_every=2, steps_per_call=2)
SECONDS = 60
"""On a quiet machine a tenth of this is enough; a process that is held up stays so for longer."""
STUCK_AFTER = 8
OTHER_FIRST = "error: process 0 of 2 has failed: "
"""Where all fail at once, process 1 may receive the reason of process 0 before it prints its own."""


@pytest.fixture
def start(tiny_data):
  """start(workdir, *program) starts train.py, or `program` with its arguments, as `count` processes."""
  started = []

  def start(workdir, *program, count=2, workdirs=()):
    arguments = [f"--config={TESTS / 'tiny_config.py'}", f"--config.data.data_dir={tiny_data}"]
    arguments += [f"--config.train.{name}={value}" for name, value in TRAIN.items()]
    arguments += [f"--coordinator={several.free_address()}", f"--num_processes={count}"]
    command = [sys.executable, *map(str, program or (ROOT / "train.py",)), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    own = lambda i: [f"--process_id={i}", f"--workdir={(workdirs or [workdir] * count)[i]}"]
    begun = [subprocess.Popen([*command, *own(i)], env=several.environment(1), **pipes) for i in range(count)]
    started.extend(begun)
    return begun

  yield start
  for process in started:
    process.kill()


def until_held(process):
  while (line := process.stdout.readline()) != "held\n":
    assert line, process.communicate()


def assert_goes_on(start, workdir, config, saved):
  """The same command resumes from step `saved` (None: any step) and completes the run."""
  ended = finish(start(workdir))
  assert [(code, err) for code, _, err in ended] == [(0, "")] * 2
  assert saved is None or ("resuming from step" in ended[0][1]) == bool(saved)
  assert not saved or f"from step {saved}\n" in ended[0][1]
  assert newest(workdir, config)[0].step == TRAIN["steps"]


PHASES = ("start", "compile", "step", "evaluation", "sampling", "save")


def held_and_asked(phases):
  """[(phase, process that is held up in it, process that is asked to stop)]."""
  pairs = lambda phase: [(0, 1), (0, 0)] if phase == "save" else [(1, 0), (0, 1)]  # only process 0 writes checksums
  return [(phase, *pair) for phase in phases for pair in pairs(phase)]


@cases(("phase", "held", "asked"), held_and_asked(PHASES), slow=[("step", 1, 0)])
def test_any_one_that_is_asked_stops_all_and_all_is_saved(start, tiny, tmp_path, phase, held, asked):
  begun = start(tmp_path, HELD, f"{phase}@{held}", 3, SECONDS)
  until_held(begun[held])
  begun[asked].send_signal(signal.SIGTERM)
  ended = finish(begun, SECONDS)
  assert [code for code, _, _ in ended] == [128 + signal.SIGTERM] * 2, ended
  if phase == "start":
    assert f"process {asked} of 2 was stopped by SIGTERM\n" in ended[1 - asked][2]
  else:
    assert "state saved; the same command resumes from there" in ended[0][1] and not ended[0][2] + ended[1][2], ended
  saved = re.search(r"stopped at step (\d+)", ended[0][1])
  assert_goes_on(start, tmp_path, tiny(**TRAIN), int(saved[1]) if saved else 0)


@cases(("phase", "held", "asked"), held_and_asked(PHASES[:-1]), slow=[])
def test_a_long_phase_is_left_by_all(start, tiny, tmp_path, phase, held, asked):
  begun = start(tmp_path, HELD, f"{phase}@{held}", 200, 2)
  until_held(begun[held])
  begun[asked].send_signal(signal.SIGTERM)
  ended = finish(begun, SECONDS)
  assert [code for code, _, _ in ended] == [128 + signal.SIGTERM] * 2, ended
  assert ended[asked][2] == "" and ended[1 - asked][2] == f"process {asked} of 2 was stopped by SIGTERM\n"
  assert_goes_on(start, tmp_path, tiny(**TRAIN), None)


@cases(("phase", "failing"), [("start", 1), ("evaluation", 0), ("save", 0)], slow=[("save", 0)])
def test_one_that_fails_tells_the_others(start, tiny, tmp_path, phase, failing):
  ended = finish(start(tmp_path, HELD, f"{phase}@{failing}", "fail", 15))
  assert [code for code, _, _ in ended] == [1, 1]
  own, other = ended[failing][2], ended[1 - failing][2]
  assert own.startswith("error: ") and own.count("\n") == 1 and "the disk is on fire" in own
  assert other == own.replace("error: ", f"error: process {failing} of 2 has failed: ")
  assert_goes_on(start, tmp_path, tiny(**TRAIN), None)


@pytest.mark.slow
def test_a_bug_of_the_first_is_not_laid_on_those_that_wait_for_it(start, tmp_path):
  (own, other) = finish(start(tmp_path, HELD, "data@0", "bug", 15))
  assert own[0] == other[0] == 1 and own[2].endswith("\nTypeError: this is a bug\n") and "Traceback" in own[2], own
  assert other[2] == "error: process 0 of 2 has failed: this is a bug\n", other


@pytest.mark.slow
def test_of_many_all_hear_which_one_has_failed(start, tmp_path):
  ended = finish(start(tmp_path, HELD, "start@3", "fail", 15, count=4))
  heard = "error: process 3 of 4 has failed: the disk is on fire\n"
  assert [(code, err) for code, _, err in ended] == [(1, heard)] * 3 + [(1, "error: the disk is on fire\n")]


@cases(("phase", "asked"), [("evaluation", 0), ("step", 0), ("step", 1)], slow=[("step", 1)])
def test_second_signal_ends_all_at_once(start, tiny, tmp_path, phase, asked):
  begun = start(tmp_path, HELD, f"{phase}@1", 200, 200)
  until_held(begun[1])
  for _ in range(2):
    begun[asked].send_signal(signal.SIGINT)
    time.sleep(0.3)
  ended = finish(begun, SECONDS)
  codes = [code for code, _, _ in ended]
  assert codes[asked] == 128 + signal.SIGINT, ended
  assert codes[1 - asked] in ((128 + signal.SIGINT,) if asked else (128 + signal.SIGINT, -signal.SIGABRT)), ended
  assert_goes_on(start, tmp_path, tiny(**TRAIN), None)


@cases(
  ("phase", "stuck"),
  [("start", 1), ("step", 1), ("step", 0), ("evaluation", 1), ("save", 0)],
  slow=[("step", 1)],
)
def test_the_others_report_one_that_halts_and_leave(start, tiny, tmp_path, phase, stuck):
  begun = start(tmp_path, HELD, f"{phase}@{stuck}", 2, 15, STUCK_AFTER)
  until_held(begun[stuck])
  begun[stuck].send_signal(signal.SIGSTOP)
  ((code, _, err),) = finish([begun[1 - stuck]], STUCK_AFTER + SECONDS)
  told = rf"has not heard from process {stuck} for {STUCK_AFTER} s, at step \d+|is stuck: since step \d+"
  assert code == 75 and re.match(rf"error: process {1 - stuck} of 2 ({told})", err), err
  assert re.search(r"  File .*train.py\", line \d+ in ", err), err
  begun[stuck].kill()
  begun[stuck].communicate()
  assert_goes_on(start, tmp_path, tiny(**TRAIN), None)


@pytest.mark.soak
def test_one_of_four_that_halts_ends_all(start, tmp_path):
  begun = start(tmp_path, HELD, "step@2", 2, 15, STUCK_AFTER, count=4)
  until_held(begun[2])
  begun[2].send_signal(signal.SIGSTOP)
  others = [process for process in begun if process is not begun[2]]
  ended = finish(others, STUCK_AFTER + SECONDS)
  assert [code for code, _, _ in ended] == [75] * 3, ended
  told = rf"has not heard from process 2 for {STUCK_AFTER} s|stuck|lost connection to another process of the run"
  assert all(err.startswith("error: ") and re.search(told, err) for _, _, err in ended), ended
  begun[2].kill()


@cases(("phase", "killed"), [("step", 0), ("step", 1), ("save", 0)], slow=[("step", 0)])
def test_one_that_is_killed_ends_the_others_and_they_go_on(start, tiny, tmp_path, phase, killed):
  begun = start(tmp_path, HELD, f"{phase}@{killed}", 200, 15)
  until_held(begun[killed])
  begun[killed].kill()
  ((code, _, err),) = finish([begun[1 - killed]], SECONDS)
  if killed == 0:  # JAX's coordinator runs there
    assert code in (75, -signal.SIGABRT), err
  else:
    assert code == 75 and err.startswith("error: lost connection to another process of the run ("), err
    assert "); run the same command to resume from the last checkpoint.\n" in err, err
  assert_goes_on(start, tmp_path, tiny(**TRAIN), None)


@pytest.mark.slow
def test_folders_that_are_not_one_are_refused(start, tiny, tmp_path):
  """As when each machine has its own disk: at the start, and when one of them holds the run's checkpoints."""
  for _ in range(2):
    ended = finish(start(None, workdirs=[tmp_path / "shared", tmp_path / "own"]))
    for index, (code, _, err) in enumerate(ended):
      assert code == 1 and err.count("\n") == 1 and "1 of 2 processes" in err, err
      assert "give all the same shared folder" in err
      assert ("including this one" in err) == bool(index) or OTHER_FIRST in err
    finish(start(tmp_path / "shared"))


@pytest.mark.slow
def test_a_checkpoint_that_one_cannot_read_is_not_passed_over(start, tmp_path):
  finish(start(tmp_path))
  ended = finish(start(tmp_path, TESTS / "cluster" / "faults" / "half_blind_train.py"))
  for index, (code, _, err) in enumerate(ended):
    assert code == 1 and err.count("\n") == 1 and "1 of 2 processes cannot read checkpoint" in err, err
    assert ("here (the disk is on fire)" in err) == bool(index) or OTHER_FIRST in err
  assert not list(tmp_path.glob("checkpoints/damaged*"))
