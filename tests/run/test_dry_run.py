"""train.py --dry_run: exact where shapes decide, and nothing is written."""

import pathlib
import re

import jax
import pytest

import train as train_script
from diffjax import build, parallel

CONFIG = pathlib.Path(__file__).parent.parent / "tiny_config.py"
DIGITS = 1437


def printed(out):
  """{name: value} of the lines."""
  return dict(re.split(r" {2,}|(?<=^.{15}) ", line.strip(), maxsplit=1) for line in out.splitlines())


def num_bytes(told):
  return int(re.search(r"([\d,]+) bytes", told)[1].replace(",", ""))


@pytest.fixture
def dry(capsys, monkeypatch):
  """dry(config, workdir) is what a dry run prints."""

  def dry(config, workdir):
    train_script.dry_run(config, workdir)
    return printed(capsys.readouterr().out)

  return dry


def test_figures_are_exact_and_nothing_is_written(tiny, tmp_path, dry):
  told = dry(tiny(), tmp_path / "run")
  state = build.initial_state(tiny())
  nbytes = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
  assert num_bytes(told["parameters"]) == num_bytes(told["gradients"]) == nbytes(state.params)
  assert num_bytes(told["optimiser"]) == nbytes(state.opt_state)
  assert num_bytes(told["averages"]) == nbytes(state.ema) == nbytes(state.params)
  assert num_bytes(told["data set"]) == DIGITS * (8 * 8 + 4)
  assert num_bytes(told["activations"]) > 0
  assert told["mesh"] == "1 process x 1 cpu device" and told["batch"] == "16 a step, 16 a device"
  assert told["data"] == f"{DIGITS:,} pictures of (8, 8, 1)" and told["folder"] == str(tmp_path / "run")
  assert told["checkpoints"].startswith("3 and the best, ")
  assert not list(tmp_path.iterdir())


def test_activations_grow_with_the_batch(tiny, tmp_path, dry):
  small, large = (num_bytes(dry(tiny(batch_size=size), tmp_path / "run")["activations"]) for size in (16, 64))
  assert 2 * small < large < 5 * small


def test_data_that_is_not_prepared_stays_so(tiny, tmp_path, dry):
  config = tiny()
  config.data.data_dir = str(tmp_path / "data")
  told = dry(config, tmp_path / "run")
  assert told["data"].startswith("not prepared yet") and "data set" not in told
  assert not list(tmp_path.iterdir())


def test_nothing_is_computed(tiny, tmp_path, dry, monkeypatch):
  class Lowered:
    def __init__(self, fun, donate_argnums=()):
      self.lower = jax.pmap(fun, axis_name=parallel.AXIS, donate_argnums=donate_argnums).lower

  monkeypatch.setattr(parallel, "pmap", Lowered)  # cannot be called
  monkeypatch.setattr(build, "initial_state", lambda config, made=build.initial_state: traced(made(config)))

  def traced(state):
    assert all(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(state))
    return state

  dry(tiny(), tmp_path)


@pytest.mark.slow
def test_process_of_eight_devices(script, tiny, tmp_path, monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
  data_dir = tiny().data.data_dir
  workdir = tmp_path / "run"
  run = script(
    "train.py", f"--config={CONFIG}", f"--config.data.data_dir={data_dir}", f"--workdir={workdir}", "--dry_run"
  )
  out, err = run.communicate(timeout=120)
  assert run.returncode == 0, err
  told = printed(out)
  assert told["mesh"] == "1 process x 8 cpu devices" and told["batch"] == "16 a step, 2 a device"
  assert num_bytes(told["data set"]) == DIGITS * (8 * 8 + 4)
  assert not list(tmp_path.iterdir())
