"""Hooks: every phase of a run is reached, in order, and what a hook raises ends the run."""

import pytest

from diffjax.runs import phases
from train import train


@pytest.mark.slow
def test_a_run_reaches_every_phase_in_order(tiny, tmp_path):
  reached = []
  with phases.hooked(lambda phase, *details: reached.append((phase, *details[:2]))):
    train(tiny(steps=4, checkpoint_every=4, sample_every=4), tmp_path)
  names = [phase for phase, *_ in reached if phase != "save"]
  assert names == ["data", "start", "step", "step", "evaluation", "preview"]
  assert [details for phase, *details in reached if phase == "step"] == [[0, 2], [2, 2]]
  assert {phase for phase, *_ in reached} == set(phases.PHASES)
  train(tiny(steps=4, checkpoint_every=4, sample_every=4), tmp_path)  # outside the block nothing is called
  assert names == [phase for phase, *_ in reached if phase != "save"]


def test_what_a_hook_raises_ends_the_run(tiny, tmp_path):
  def hook(phase, *details):
    if phase == "data":
      raise OSError("the disk is on fire")

  with phases.hooked(hook), pytest.raises(OSError, match="on fire"):
    train(tiny(), tmp_path)
