"""Several processes: a signal to one stops all at the same step."""

import re
import signal
import socket
import time

import pytest


@pytest.fixture
def several(script):
  """several(count, timeout) starts that many processes that train together, and returns them once they are running."""
  started = []

  def several(count, timeout=600):
    with socket.socket() as free:
      free.bind(("127.0.0.1", 0))
      address = f"127.0.0.1:{free.getsockname()[1]}"
    for index in range(count):
      started.append(script("tests/cluster/faults/one_of_several.py", address, count, index, timeout))
    for process in started:
      while (line := process.stdout.readline()) != "running\n":  # gloo says something first
        assert line, process.stderr.read()
    return started

  yield several
  for process in started:
    process.kill()


@pytest.mark.parametrize(
  ("count", "asked", "signum"),
  [
    (2, 0, signal.SIGTERM),
    pytest.param(2, 1, signal.SIGINT, marks=pytest.mark.slow),
    pytest.param(4, 2, signal.SIGTERM, marks=pytest.mark.slow),
  ],
)
def test_any_one_that_is_asked_stops_all_at_the_same_step(several, count, asked, signum):
  processes = several(count)
  time.sleep(0.3)
  processes[asked].send_signal(signum)
  outcomes = [process.communicate(timeout=25) for process in processes]
  said = [re.fullmatch(r"stopped at (\d+), signal (\w+)\n", out).groups() for out, _ in outcomes]
  assert len({step for step, _ in said}) == 1, outcomes
  for index, (process, (_, received)) in enumerate(zip(processes, said)):
    assert received == (str(int(signum)) if index == asked else "None")
    assert process.returncode == 128 + (signum if index == asked else signal.SIGTERM)
