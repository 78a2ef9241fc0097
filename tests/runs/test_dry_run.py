"""train.py --dry_run: exact where shapes decide, and nothing is computed or written."""

import contextlib
import io
import os
import pathlib
import re

import jax
import pytest

import train as train_script
from diffjax import from_config
from diffjax.cluster import devices, layouts

CONFIG = pathlib.Path(__file__).parent.parent / "tiny_config.py"
DIGITS = 1437


def read(out):
  """{name: value} of the lines that a dry run prints."""
  return {line[:15].strip(): line[16:] for line in out.splitlines()}


def num_bytes(told):
  return int(re.search(r"([\d,]+) bytes", told)[1].replace(",", ""))


def dry(config, workdir):
  with contextlib.redirect_stdout(io.StringIO()) as out:
    train_script.dry_run(config, workdir)
  return read(out.getvalue())


class OnlyLowered:
  """A replacement for `devices.pmap` whose result can be lowered but not called."""

  def __init__(self, fun, donate_argnums=()):
    self.lower = jax.pmap(fun, axis_name=devices.AXIS, donate_argnums=donate_argnums).lower


def traced(state):
  assert all(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(state))
  return state


@pytest.fixture(scope="module")
def told(tmp_path_factory, tiny_data):
  """What the dry run of the tiny config prints, checking that nothing is computed or written."""
  import tiny_config

  config, folder = tiny_config.get_config(), tmp_path_factory.mktemp("dry")
  config.data.data_dir = str(tiny_data)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(devices, "pmap", OnlyLowered)
    patch.setattr(from_config, "initial_state", lambda config, made=from_config.initial_state: traced(made(config)))
    lines = dry(config, folder / "run")
  assert lines.pop("folder") == str(folder / "run") and not list(folder.iterdir())
  return lines


@pytest.mark.slow
def test_figures_are_exact(tiny, told):
  state = from_config.initial_state(tiny())
  nbytes = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
  assert told["parameters"] == f"{nbytes(state.params) // 4:,} in {told['parameters'].split(' in ')[1]}"
  assert num_bytes(told["parameters"]) == num_bytes(told["gradients"]) == nbytes(state.params)
  assert num_bytes(told["optimiser"]) == nbytes(state.opt_state)
  assert num_bytes(told["averages"]) == nbytes(state.ema) == nbytes(state.params)
  assert num_bytes(told["data set"]) == DIGITS * (8 * 8 + 4)
  assert told["mesh"] == "1 process x 1 cpu device" and told["batch"] == "16 a step, 16 a device"
  assert told["data"] == f"{DIGITS:,} images of 8x8x1"
  assert told["checkpoints"].startswith("3 and the best, ")


@pytest.mark.slow
def test_activations_and_flops_grow_with_the_batch(tiny, tmp_path, told):
  """Also, unprepared data is not prepared."""
  config = tiny(batch_size=64)
  config.data.data_dir = str(tmp_path / "data")
  large = dry(config, tmp_path / "run")
  assert 2 < num_bytes(large["activations"]) / num_bytes(told["activations"]) < 5
  assert 3 < float(large["FLOPs"].split()[0]) / float(told["FLOPs"].split()[0]) < 4.5
  assert large["data"].startswith("not prepared yet") and "data set" not in large
  assert not list(tmp_path.iterdir())


@pytest.fixture
def eight_devices(monkeypatch):
  """For the processes of `script`, so request it before that fixture."""
  monkeypatch.setenv("XLA_FLAGS", f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["pmap", "fsdp"])
def test_process_of_eight_devices(eight_devices, script, tiny, tmp_path, way):
  data_dir = tiny().data.data_dir
  workdir = tmp_path / "run"
  flags = f"--config={CONFIG}", f"--config.data.data_dir={data_dir}", f"--config.parallel={way}", "--dry_run"
  run = script("train.py", *flags, f"--workdir={workdir}")
  out, err = run.communicate(timeout=120)
  assert run.returncode == 0, err
  told = read(out)
  assert told["mesh"] == "1 process x 8 cpu devices" and told["batch"] == "16 a step, 2 a device"
  assert num_bytes(told["data set"]) == DIGITS * (8 * 8 + 4)
  leaves = jax.tree.leaves(from_config.initial_state(tiny()).opt_state)
  shared = lambda leaf: way == "fsdp" and any(layouts.spec(leaf.shape, 8))
  assert any(map(shared, leaves)) == (way == "fsdp")
  assert num_bytes(told["optimiser"]) == sum(leaf.nbytes // (8 if shared(leaf) else 1) for leaf in leaves)
  assert not list(tmp_path.iterdir())
