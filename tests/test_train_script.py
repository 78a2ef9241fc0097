"""train.py: stopped and resumed runs are the run that never stopped, and mistakes cost nothing."""

import contextlib
import itertools
import json
import os
import pathlib
import shutil
import signal
import time
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import train as train_script
from diffjax import DiffjaxWarning, data, from_config, runs, struct
from diffjax.cluster import signals
from diffjax.from_config import diffusion
from diffjax.runs import folder, phases
from diffjax.runs.checkpoints import Checkpoints
from train import train

CONFIG = pathlib.Path(__file__).with_name("tiny_config.py")


def assert_identical(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def last_checkpoint(workdir, config):
  checkpoints = Checkpoints(workdir / runs.CHECKPOINTS, read_only=True)
  state, contents = checkpoints.restore_newest(jax.eval_shape(lambda: from_config.initial_state(config)))
  checkpoints.close()
  return state, contents


@contextlib.contextmanager
def stopped_after(calls, signum=signal.SIGTERM):
  """Sends this process a signal before that call of the train step, however slow the machine."""
  made = itertools.count(1)

  def hook(phase, *details):
    if phase == "step" and next(made) == calls:
      os.kill(os.getpid(), signum)

  with pytest.MonkeyPatch.context() as patch, phases.hooked(hook):
    patch.setattr(signals, "PATIENCE", 600.0)
    yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_data):
  """A run of eight steps in one go: (config, folder, last state, what it printed)."""
  import tiny_config

  config = tiny_config.get_config()
  config.data.data_dir = str(tiny_data)
  config.train.sample_every = 4
  workdir = tmp_path_factory.mktemp("whole")
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    return config, workdir, train(config, workdir)


def test_what_a_run_leaves(whole):
  config, workdir, state = whole
  assert state.step == 8 and state.skipped == 0
  assert_identical(last_checkpoint(workdir, config)[0], state)
  assert sorted(os.listdir(workdir / "checkpoints")) == ["3", "6", "8"]
  assert len(os.listdir(workdir / "best")) == 1
  assert sorted(os.listdir(workdir / "samples")) == ["step_0000004.png", "step_0000008.png"]
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8]
  held_out = {line["step"]: line["held_out_loss"] for line in lines if "held_out_loss" in line}
  assert list(held_out) == [3, 6, 8]
  assert os.listdir(workdir / "best") == [str(min(held_out, key=held_out.get))]
  assert (workdir / "loss.png").exists()
  contents = last_checkpoint(workdir, config)[1]
  assert contents["config"] == json.loads((workdir / "config.json").read_text())


def test_training_learns(whole):
  config, _, state = whole
  batch = train_script.held_out_batches(config)[0]
  loss = jax.jit(lambda params: from_config.objective(config)(params, batch, jax.random.key(0))[0].mean())
  assert loss(state.params) < 0.97 * loss(from_config.initial_state(config).params)


@pytest.mark.slow
def test_equals_single_steps_by_hand(whole):
  """The loop, its prefetching, calls of several steps and pmap come to the pure step applied eight times."""
  config, _, state = whole
  batches = data.batches(runs.load_data(config, "train"), 16, 0)
  step = jax.jit(from_config.train_step(config))
  by_hand = from_config.initial_state(config)
  for _ in range(8):
    by_hand, _ = step(by_hand, next(batches), jax.random.key(0))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), by_hand, state)


@pytest.mark.parametrize(
  ("signum", "after"), [(signal.SIGINT, 1), pytest.param(signal.SIGTERM, 3, marks=pytest.mark.slow)]
)
def test_stopped_and_resumed_is_bit_identical(whole, tmp_path, capsys, signum, after):
  config, _, state = whole
  with stopped_after(after, signum), pytest.raises(SystemExit) as stop:
    train(config, tmp_path)
  assert stop.value.code == 128 + signum
  step = {1: 2, 3: 4}[after]  # calls end at multiples of 2, 3 and 4
  assert f"stopped at step {step}, state saved" in capsys.readouterr().out
  assert last_checkpoint(tmp_path, config)[0].step == step
  assert_identical(train(config, tmp_path), state)
  assert f"resuming from step {step}" in capsys.readouterr().out
  steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert steps == sorted(steps) and steps[-1] == 8


@pytest.mark.slow
def test_damaged_checkpoint_costs_only_the_steps_since_the_one_before(whole, tmp_path):
  config, _, state = whole
  with stopped_after(4), pytest.raises(SystemExit):
    train(config, tmp_path)
  checkpoint = max((tmp_path / "checkpoints").iterdir(), key=lambda path: int(path.name))
  (checkpoint / "run" / "metadata").write_text("{")
  with pytest.warns(DiffjaxWarning, match="so the one before it is used"):
    assert_identical(train(config, tmp_path), state)
  assert (tmp_path / "checkpoints" / f"damaged-{checkpoint.name}").exists()


@struct.dataclass
class Imitation:
  """The squared distance of a picture from the frozen teacher's, for every example."""

  train: bool = struct.field(pytree_node=False, default=True)

  def __call__(self, params, batch, key, *, frozen=None, axis_name=None):
    return jnp.full(batch["index"].shape, jnp.square(params["picture"] - frozen["picture"]).mean()), {}


@pytest.fixture
def imitation(monkeypatch):
  """Adds a kind of model, "imitation"; returns (its teacher, a list of the previews it makes)."""
  teacher, previewed = np.linspace(-1, 1, 1024, dtype=np.float32), []
  changes = dict(
    NETWORKS={"imitation": Imitation},
    check=lambda config: None,
    num_classes=lambda config: 0,
    objective=lambda config: Imitation(),
    initial_params=lambda config, key, frozen: {"picture": jnp.zeros(1024)},
    initial_frozen=lambda config: {"picture": teacher},
    memory_settings=lambda config: {},
    preview=lambda config, params, frozen, held_out, path: previewed.append((len(held_out()), path.name)),
  )
  monkeypatch.setitem(from_config.KINDS, "imitation", types.SimpleNamespace(**vars(diffusion) | changes))
  return teacher, previewed


@pytest.mark.parametrize("parallel", ["pmap", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_a_frozen_teacher_is_read_everywhere_and_saved_nowhere(imitation, tiny, tmp_path, capsys, parallel):
  config, (given, previewed) = tiny(steps=6), imitation
  teacher = given.copy()
  config.model.name, config.parallel = "imitation", parallel
  state = train(config, tmp_path / "whole")
  np.testing.assert_array_equal(state.frozen["picture"], teacher)
  np.testing.assert_array_equal(given, teacher)
  assert not any(name.startswith("frozen") for name in last_checkpoint(tmp_path / "whole", config)[1]["leaves"])
  lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
  losses = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
  np.testing.assert_allclose(losses[-1], np.square(state.averaged["picture"] - teacher).mean(), rtol=1e-5)
  assert len(losses) == 2 and losses[-1] < losses[0]
  assert previewed == [(360, "step_0000006.png")]
  shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
  shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "6")
  assert_identical(train(config, tmp_path / "resumed"), state)
  assert "resuming from step 3" in capsys.readouterr().out


@pytest.mark.slow
def test_a_dry_run_counts_what_is_frozen(imitation, tiny, tmp_path, capsys):
  config = tiny()
  config.model.name = "imitation"
  train_script.dry_run(config, tmp_path)
  assert "frozen          4.0 KiB, 4,096 bytes" in capsys.readouterr().out


def test_complete_run_stays_as_it_is(whole, capsys):
  config, workdir, state = whole
  before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
  assert_identical(train(config, workdir), state)
  assert "the run is complete" in capsys.readouterr().out
  assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_streaming_and_memory_feed_the_same_batches(whole, tmp_path):
  config, _, state = whole
  config = config.copy_and_resolve_references()
  config.data.in_memory = False
  with stopped_after(2), pytest.raises(SystemExit):
    train(config, tmp_path)
  streamed = train(config, tmp_path)
  # two programs, so they differ by rounding, which Adam amplifies; another batch would move a parameter by 1e-3
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), streamed, state)


def test_other_config_is_refused_and_nothing_changes(whole):
  config, workdir, _ = whole
  other = config.copy_and_resolve_references()
  other.train.learning_rate = 0.1
  with pytest.raises(ValueError, match=r"another config, .* train.learning_rate: 0.005, 0.1; use"):
    train(other, workdir)


@pytest.mark.parametrize(
  ("key", "value", "says"),
  [
    ("model.width", 16, r"holds float32\[.*8\] at (.*), but the config asks for float32\[.*16\]; .*: 8, 16"),
    (
      "ema.decays",
      (0.9, 0.99),
      r"holds nothing at ema/1/.*, but the config asks for float32.*: \[0.9\], \[0.9, 0.99\]",
    ),
    ("ema.decays", (), r"holds float32.* at ema/0/.*, but the config asks for nothing; .*: \[0.9\], \[\]"),
    ("train.optimizer", "muon", r"at opt_state/.*: adam, muon"),
  ],
)
def test_other_shapes_are_refused_with_leaf_and_key(whole, tmp_path, key, value, says):
  """A config.json that was changed by hand, for train.py refuses other configs before it looks at a checkpoint."""
  config = whole[0].copy_and_resolve_references()
  config[key.split(".")[0]][key.split(".")[1]] = value
  workdir = shutil.copytree(whole[1], tmp_path / "run")
  (workdir / "config.json").write_text(config.to_json())
  for restore in (train, lambda config, workdir: folder.restore_averaged(workdir, config)):
    with pytest.raises(ValueError, match=says) as caught:
      restore(config, workdir)
    assert key in str(caught.value)


def test_a_second_process_is_refused_at_once(whole):
  config, workdir, _ = whole
  with runs.claimed(workdir, config), pytest.raises(ValueError, match="another process trains in"):
    train(config, workdir)


def test_a_full_disk_shows_before_the_first_step(tiny, tmp_path, monkeypatch):
  monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 0))
  with pytest.raises(OSError, match="the disk is full"):
    train(tiny(), tmp_path)
  assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.slow
def test_run_that_is_not_finite_any_more_stops(tiny, tmp_path):
  """The second step sends the parameters beyond what a loss can hold; none is finite from there on."""
  config = tiny(steps=40, max_skipped_in_row=5, learning_rate=1e37, warmup_steps=0)
  with pytest.raises(
    FloatingPointError, match=r"not finite in [5-9] updates in a row .* checkpoint is that of step (3|6);"
  ):
    train(config, tmp_path)
  state, _ = last_checkpoint(tmp_path, config)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params)) and state.skipped > 0
  assert not os.listdir(tmp_path / "best")  # a loss that is not finite is never the best
  with pytest.raises(FloatingPointError):
    train(config, tmp_path)  # and it does not heal by itself


@pytest.mark.parametrize(
  ("key", "value", "says"),
  [
    ("train.steps", 0, "train.steps is 0"),
    ("train.accumulate", 0, "train.accumulate is 0"),
    ("train.accumulate", 3, "cannot share a batch of 16 evenly; use a multiple of 3"),
    ("train.checkpoint_every", -1, "train.checkpoint_every is -1"),
    ("train.learning_rate", 0.0, "train.learning_rate is 0"),
    ("train.decay", "cosin", "did you mean 'cosine'"),
    ("schedule.name", "edn", "did you mean 'edm'"),
    ("loss.name", "simpel", "did you mean 'simple'"),
    ("prediction.sigma_dat", 1.0, r"has no parameter 'sigma_dat' \(did you mean 'sigma_data'"),
    ("model.widht", 8, "did you mean 'width'"),
    ("sampler.name", "dpmp_2m", "did you mean 'dpmpp_2m'"),
    ("sampler.grids", {}, "names no grid for 4 steps"),
    ("data.name", "digitz", "'digits'"),
    ("data.folder", "/nowhere", "folder"),
    ("ema.decays", (1.5,), "ema.decays"),
    ("model.num_classes", 3, "has 10 labels"),
    ("parallel", "pmpa", "did you mean 'pmap'"),
  ],
)
def test_mistakes_in_a_config_show_before_anything_is_written(tiny, tmp_path, key, value, says):
  config = tiny()
  with config.unlocked():
    parent = config
    for name in key.split(".")[:-1]:
      parent = parent[name]
    parent[key.split(".")[-1]] = value
  with pytest.raises(ValueError, match=says):
    train(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_empty_picture_folder(tiny, tmp_path):
  config = tiny()
  (tmp_path / "pictures").mkdir()
  config.data.update(name="image_folder", folder=str(tmp_path / "pictures"))
  with pytest.raises(ValueError, match="holds no images"):
    train(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_killed_and_interrupted_processes_resume_exactly(script, tmp_path, tiny):
  """Real processes: one killed between two checkpoints, one interrupted, a third that ends."""
  changes = dict(steps=600, checkpoint_every=200, log_every=100, steps_per_call=10)
  config = tiny(**changes)
  arguments = [f"--config={CONFIG}", f"--config.data.data_dir={config.data.data_dir}", f"--workdir={tmp_path / 'run'}"]
  arguments += [f"--config.train.{name}={value}" for name, value in changes.items()]

  def wait_for(process, done):
    limit = time.monotonic() + 120
    while not done() and process.poll() is None and time.monotonic() < limit:
      time.sleep(0.005)
    assert process.poll() is None, process.communicate()

  first = script("train.py", *arguments)
  wait_for(first, (tmp_path / "run" / "checkpoints" / "200").exists)
  first.kill()
  first.communicate()
  second = script("train.py", *arguments)
  line = second.stdout.readline() + second.stdout.readline()
  assert "resuming from step 200" in line
  assert "step 300/" in second.stdout.readline()
  second.send_signal(signal.SIGINT)
  out, err = second.communicate(timeout=120)
  assert second.returncode == 130 and "state saved; the same command resumes" in out and not err
  third = script("train.py", *arguments)
  out, err = third.communicate(timeout=120)
  assert third.returncode == 0 and "resuming from step" in out and not err
  assert_identical(last_checkpoint(tmp_path / "run", config)[0], train(config, tmp_path / "whole"))


@pytest.mark.parametrize(
  ("arguments", "says"),
  [
    ([f"--config={CONFIG}"], "--config or --workdir is missing"),
    (["--config=nowhere.py", "--workdir={}"], "there is no config file nowhere.py"),
    ([f"--config={CONFIG}", "--workdir={}", "--config.train.stepz=3"], "did you mean 'steps'"),
    ([f"--config={CONFIG}", "--workdir={}", "--config.train.steps=many"], "--config.train.steps=many"),
  ],
)
def test_processes_end_with_one_sentence(script, tmp_path, arguments, says):
  process = script("train.py", *(argument.format(tmp_path / "run") for argument in arguments))
  out, err = process.communicate(timeout=120)
  assert (process.returncode, out) == (1, "")
  assert err.startswith("error: ") and err.count("\n") == 1 and says in err
  assert not list(tmp_path.iterdir())
