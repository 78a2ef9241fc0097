"""Which faults are tested when, what a run leaves behind, and whether two runs left the same."""

import json
import pathlib

import jax
import pytest

from diffjax import from_config, runs
from diffjax.runs.checkpoints import Checkpoints


def cases(names, values, slow):
  """Parametrizes a test; cases not in `slow` are marked soak."""
  mark = lambda value: pytest.mark.slow if value in slow else pytest.mark.soak
  assert set(slow) <= set(values)
  return pytest.mark.parametrize(names, [pytest.param(*value, marks=mark(value)) for value in values])


def newest(workdir: pathlib.Path, config):
  """The newest checkpoint of a run: (state, JSON contents)."""
  checkpoints = Checkpoints(workdir / runs.CHECKPOINTS, read_only=True)
  try:
    return checkpoints.restore_newest(jax.eval_shape(lambda: from_config.initial_state(config)))
  finally:
    checkpoints.close()


def held_out(workdir: pathlib.Path) -> dict[int, float]:
  """{step: loss} of the checkpoints that were evaluated."""
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return {line["step"]: line["held_out_loss"] for line in lines if "held_out_loss" in line}


def seen(record: pathlib.Path) -> dict[int, list[int]]:
  """{step: ids} from a file of recorded_train.py; fails if a repeated step saw other ids."""
  found = {}
  for line in record.read_text().splitlines():
    try:
      step, ids = json.loads(line)
    except ValueError:
      continue  # empty, or cut short by a kill
    assert found.setdefault(step, ids) == ids, f"step {step} saw other examples the second time"
  return found


def assert_identical(a, b):
  """Fails unless two trees are the same, bit for bit."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())


def assert_same_run(workdir: pathlib.Path, reference: pathlib.Path, config):
  """Fails unless two runs have the same newest checkpoint, the same best one, and the same losses along the way."""
  (state, contents), (expected, expected_contents) = newest(workdir, config), newest(reference, config)
  assert_identical(state, expected)
  assert contents == expected_contents
  assert held_out(workdir) == held_out(reference)
  assert [path.name for path in (workdir / runs.BEST).iterdir()] == [
    path.name for path in (reference / runs.BEST).iterdir()
  ]
