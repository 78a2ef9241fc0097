"""Calls that end at exact steps, batches in slots, and a stop by signal."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from diffjax.cluster.signals import StopRequest
from diffjax.training.loop import calls, stack_batches


@pytest.mark.parametrize(
  ("start", "stop", "most", "boundaries"),
  [(0, 25, 10, (20, 0)), (3, 40, 7, (5, 8, 6)), (0, 10, 1, (3,)), (9, 9, 4, (2,)), (7, 20, 100, ())],
)
def test_calls_end_at_every_boundary(start, stop, most, boundaries):
  sizes = list(calls(start, stop, most, boundaries))
  ends = list(start + np.cumsum(sizes, dtype=int))
  assert all(1 <= size <= most for size in sizes)
  must = {step for step in range(start + 1, stop + 1) for every in boundaries if every and step % every == 0}
  assert must <= set(ends)
  assert (ends or [start])[-1] == stop
  assert all(size == most or end == stop or end in must for size, end in zip(sizes, ends))  # none is cut for nothing


def test_batches_fill_their_slots():
  source = ({"x": np.full(2, k)} for k in range(9))
  np.testing.assert_array_equal(stack_batches(source, 2, 4)["x"][:, 0], [0, 1, 1, 1])
  np.testing.assert_array_equal(stack_batches(source, 3, 3)["x"][:, 0], [2, 3, 4])


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_is_noted_and_handlers_come_back(signum):
  before = signal.getsignal(signum)
  with StopRequest() as stop:
    assert not stop
    os.kill(os.getpid(), signum)
    assert stop and stop.signum == signum
  assert signal.getsignal(signum) == before


@pytest.mark.parametrize("rescue", ["print('rescued', flush=True)", "1 / 0"])
def test_out_of_patience_the_outer_rescue_is_called_again_after_an_inner_one_and_may_fail(rescue):
  script = (
    "import os, signal, time\nfrom diffjax.cluster.signals import StopRequest\n"
    f"with StopRequest(0.1) as stop, stop.on_timeout(lambda: {rescue}):\n"
    "  with stop.on_timeout(lambda: print('inner')):\n    pass\n"
    "  os.kill(os.getpid(), signal.SIGINT)\n  time.sleep(60)\n"
  )
  done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=50)
  assert done.returncode == 130 and ("rescued" in done.stdout) == ("rescued" in rescue) and "inner" not in done.stdout


def test_second_signal_ends_the_process():
  script = (
    "import os, signal\nfrom diffjax.cluster.signals import StopRequest\n"
    "with StopRequest() as stop:\n"
    "  os.kill(os.getpid(), signal.SIGINT)\n  print('noted', flush=True)\n"
    "  os.kill(os.getpid(), signal.SIGINT)\n  print('still here')\n"
  )
  done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
  assert (done.returncode, done.stdout) == (130, "noted\n")
