"""Several real processes, which find each other over loopback, do what one does."""

import json
import os
import pathlib
import re
import sys

import jax
import numpy as np
import pytest
import several

from diffjax import data, from_config, runs
from diffjax.cluster import command_line, exit_reasons, processes
from diffjax.runs import Run
from diffjax.runs.checkpoints import Checkpoints
from train import train

CONFIG = {"train.log_every": 1, "train.sample_every": 4, "model.num_classes": 10, "data.flip": True}


def tiny_config(tiny_data):
  import tiny_config

  config = tiny_config.get_config()
  config.data.data_dir = str(tiny_data)
  config.update_from_flattened_dict(CONFIG)
  return config


@pytest.fixture(scope="module")
def alone(tiny_data, tmp_path_factory):
  """A run of one process with one device: (config, folder, last state)."""
  config, workdir = tiny_config(tiny_data), tmp_path_factory.mktemp("alone")
  return config, workdir, train(config, workdir)


@pytest.fixture(scope="module")
def pair(tiny_data, tmp_path_factory):
  """The same run by two processes with two devices each: (folder, records of each process, what was printed)."""
  folder = tmp_path_factory.mktemp("pair")
  seen, out = several.run(folder, "pair", tiny_data, num_processes=2, devices=2, config=CONFIG, draw=7, damage=1)
  return folder / "run", seen, out


def losses(workdir):
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return [[line[name] for line in lines if name in line] for name in ("loss", "held_out_loss")]


def leaves(seen, name="state"):
  return [seen[f"{name}{i}"] for i in range(sum(key.startswith(name) for key in seen))]


@pytest.mark.slow
def test_two_processes_train_as_one(alone, pair):
  _, workdir, state = alone
  for ours, theirs in zip(losses(workdir), losses(pair[0])):
    np.testing.assert_allclose(ours, theirs, rtol=2e-5)
  for seen in pair[1]:
    for a, b in zip(jax.tree.leaves(state), leaves(seen), strict=True):
      np.testing.assert_allclose(a, b, atol=2e-4)


@pytest.mark.slow
def test_all_processes_hold_the_same(pair):
  for a, b in zip(*(leaves(seen) for seen in pair[1]), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_the_folder_is_that_of_one_process(alone, pair):
  _, workdir, _ = alone
  files = [
    sorted(str(path.relative_to(root)) for path in root.rglob("*") if "state" not in path.parts and path.is_file())
    for root in (workdir, pair[0])
  ]
  ours, theirs = ([name for name in names if not name.startswith(("best/", "tensorboard/"))] for names in files)
  assert ours == theirs and "samples/step_0000004.png" in ours and "checkpoints/8/checksums.json" in ours
  assert pair[2].count("parameters,") == 1 and "4 device(s)" in pair[2] and pair[2].count("step 8/8") == 1


@pytest.mark.slow
def test_the_checkpoint_of_two_processes_is_whole(alone, pair):
  config, _, _ = alone
  checkpoints = Checkpoints(pair[0] / runs.CHECKPOINTS, read_only=True)
  state, _ = checkpoints.restore_newest(jax.eval_shape(lambda: from_config.initial_state(config)))
  checkpoints.close()
  for a, b in zip(jax.tree.leaves(state), leaves(pair[1][0]), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_each_process_checks_its_own_files_and_all_hear_of_damage(pair):
  """The second process checks the second file."""
  first, second = ({str(name) for name in seen["checked"]} for seen in pair[1])
  folder = pair[0].with_name("damaged") / "8"
  assert first and second and not first & second
  assert first | second == {str(folder / name) for name in json.loads((folder / "checksums.json").read_text())}
  for seen in pair[1]:
    assert f"{seen['damaged']} fails its checksum" in str(seen["error"])


def examples_seen(seen):
  """{(step, position in the global batch): id of the example} of all processes; fails if a position occurs twice."""
  found = {}
  for one in seen:
    step = 0
    for call in range(sum(key.startswith("ids") for key in one)):
      for ids, index in zip(one[f"ids{call}"], one[f"index{call}"]):
        for place, example in zip(index, ids):
          assert (step, place) not in found
          found[step, place] = example
        step += 1
  return found


def examples_expected(config, start, stop):
  batches = data.id_batches(len(runs.load_data(config, "train")), config.train.batch_size, config.train.seed)
  taken = [next(batches) for _ in range(stop)][start:]
  return {(k, place): i for k, batch in enumerate(taken) for place, i in zip(batch["index"], batch["id"])}


@pytest.mark.slow
def test_every_example_is_seen_once(alone, pair):
  assert examples_seen(pair[1]) == examples_expected(alone[0], 0, 8)


@pytest.mark.slow
def test_all_processes_have_every_picture(alone, pair):
  """7 pictures in batches of 8 over 4 devices: the eighth is padding, and is dropped."""
  config, _, _ = alone
  target = jax.eval_shape(lambda: from_config.initial_state(config))
  params = jax.tree.unflatten(jax.tree.structure(target), leaves(pair[1][0])).ema[0]
  drawn, path = Run(config, params, 8).draw(7, labels=np.arange(7), batch_size=8, trajectory=True)
  assert drawn.shape == (7, 8, 8, 1) and drawn.std() > 20
  for seen in pair[1]:
    assert np.abs(seen["drawn"].astype(int) - drawn).max() <= 1
    assert seen["path"].shape == path.shape and np.abs(seen["path"].astype(int) - path).max() <= 1


@pytest.mark.soak
def test_four_processes_do_as_one(alone, tiny_data, tmp_path):
  config, workdir, state = alone
  seen, _ = several.run(tmp_path, "four", tiny_data, num_processes=4, config=CONFIG, draw=7)
  for ours, theirs in zip(losses(workdir), losses(tmp_path / "run")):
    np.testing.assert_allclose(ours, theirs, rtol=2e-5)
  for a, b in zip(jax.tree.leaves(state), leaves(seen[3]), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-4)
  assert examples_seen(seen) == examples_expected(config, 0, 8)
  params = jax.tree.unflatten(jax.tree.structure(state), leaves(seen[0])).ema[0]
  drawn = Run(config, params, 8).draw(7, labels=np.arange(7), batch_size=8)
  assert all(np.abs(one["drawn"].astype(int) - drawn).max() <= 1 for one in seen)


@pytest.mark.soak
def test_two_processes_stream_what_one_streams(tiny_data, tmp_path):
  streamed = CONFIG | {"data.in_memory": False}
  for name, count in (("one", 1), ("two", 2)):
    (tmp_path / name).mkdir()
    several.run(tmp_path / name, name, tiny_data, num_processes=count, devices=2 // count, config=streamed)
  for ours, theirs in zip(*(losses(tmp_path / name / "run") for name in ("one", "two"))):
    np.testing.assert_allclose(ours, theirs, rtol=2e-5)


@pytest.mark.slow
def test_a_process_that_is_not_there_is_named():
  ended = several.finish(several.start({"timeout": 4}, num_processes=4, missing=(2,)), timeout=60)
  for status, out, errors in ended:
    assert status == 1 and not out, errors
  assert all(errors.startswith("error: process 2 of 4 ") and errors.count("\n") == 1 for _, _, errors in ended), ended


@pytest.mark.parametrize(
  ("given", "says"),
  [
    (["--coordinator=10.0.0.1:1234"], "--num_processes and --process_id missing"),
    (["--num_processes=2", "--process_id=0"], "--coordinator missing"),
    (["--coordinator=10.0.0.1", "--num_processes=2", "--process_id=0"], "--coordinator=10.0.0.1 is not an address"),
    (["--coordinator=:80", "--num_processes=2", "--process_id=0"], "--coordinator=:80 is not an address"),
    (["--coordinator=a:99999", "--num_processes=2", "--process_id=0"], "is not an address"),
    (["--coordinator=a:1", "--num_processes=0", "--process_id=0"], "at least 1"),
    (["--coordinator=a:1", "--num_processes=2", "--process_id=2"], r"--process_id=2 must lie in 0\.\.1"),
    (["--coordinator=a:1", "--num_processes=2", "--process_id=-1"], "--process_id=-1 must lie"),
  ],
)
def test_contradictory_flags_are_refused(given, says):
  from absl import flags

  values = flags.FlagValues()
  command_line.define_processes(values)
  command_line.parse(["program", *given], values)
  with pytest.raises(ValueError, match=says):
    command_line.join(values)


@pytest.fixture
def joined(monkeypatch):
  """Records the calls of `jax.distributed.initialize` instead of making them."""
  calls = []
  monkeypatch.setattr(jax.distributed, "initialize", lambda **kwargs: calls.append(kwargs))
  monkeypatch.setattr(processes, "wait_for_all", lambda *args: None)
  monkeypatch.setattr(exit_reasons, "listen", lambda stuck_after: None)
  for name in processes.SLURM:
    monkeypatch.delenv(name, raising=False)
  return calls


SLURM = {
  "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_NTASKS": "2",
}  # fmt: skip


WATCH = {"heartbeat_timeout_seconds": 2 * processes.STUCK_AFTER + 60}


def test_processes_of_a_slurm_step_find_each_other(joined, monkeypatch):
  for name, value in SLURM.items():
    monkeypatch.setenv(name, value)
  processes.initialize()
  assert joined == [{"cluster_detection_method": "slurm", "initialization_timeout": 300} | WATCH]


def test_processes_of_a_slurm_step_wait_for_all(monkeypatch):
  monkeypatch.setattr(jax.distributed, "initialize", lambda **kwargs: pytest.fail("not all are there"))
  for name, value in (SLURM | {"SLURM_STEP_NODELIST": "localhost", "SLURM_PROCID": "0", "SLURM_NTASKS": "3"}).items():
    monkeypatch.setenv(name, value)
  with pytest.raises(OSError, match="processes 1, 2 of 3 did not connect within 1 s"):
    processes.initialize(timeout=1)


@pytest.mark.parametrize("change", [{"SLURM_NTASKS": "1"}, {"SLURM_STEP_NODELIST": None}])
def test_one_task_or_none_stays_alone(joined, monkeypatch, change):
  """A batch script outside of srun has no step; a step of one task may use all of its devices."""
  for name, value in (SLURM | change).items():
    if value is not None:
      monkeypatch.setenv(name, value)
  processes.initialize()
  assert not joined


def test_a_tpu_pod_is_joined_as_jax_finds_it(joined, monkeypatch):
  former = jax.config.jax_platforms
  jax.config.update("jax_platforms", "tpu,cpu")
  try:
    processes.initialize()
  finally:
    jax.config.update("jax_platforms", former)
  assert joined == [{"initialization_timeout": 300} | WATCH]


def test_flags_go_before_the_environment(joined, monkeypatch):
  for name, value in SLURM.items():
    monkeypatch.setenv(name, value)
  processes.initialize("a:1", 3, 2, timeout=5)
  named = {"coordinator_address": "a:1", "num_processes": 3, "process_id": 2}
  assert joined == [named | {"cluster_detection_method": "deactivate", "initialization_timeout": 5} | WATCH]


def scripts(name, *arguments, num_processes=2, devices=2):
  """Starts a script as several processes, as a user does."""
  import subprocess

  root, address = pathlib.Path(__file__).parents[2], several.free_address()
  command = [sys.executable, *([root / name] if name.endswith(".py") else ["-m", name]), *map(str, arguments)]
  environment = several.environment(devices)
  flags = [f"--coordinator={address}", f"--num_processes={num_processes}"]
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
  started = [
    subprocess.Popen([*command, *flags, f"--process_id={i}"], env=environment, cwd=root, **pipes)
    for i in range(num_processes)
  ]
  return several.finish(started)


@pytest.mark.slow
def test_scripts_as_processes(tiny_data, tmp_path):
  """train.py, sample.py and the evaluation, each with two processes; the evaluation also with four and with one."""
  config = pathlib.Path(__file__).parents[1] / "tiny_config.py"
  run, out = tmp_path / "run", tmp_path / "out"
  ended = scripts("train.py", f"--config={config}", f"--config.data.data_dir={tiny_data}", f"--workdir={run}")
  assert [(status, errors) for status, _, errors in ended] == [(0, "")] * 2
  assert "step 8/8" in ended[0][1] and not ended[1][1]
  ended = scripts("sample.py", f"--workdir={run}", "--num=7", f"--out={out}", "--filmstrip")
  assert [(status, errors) for status, _, errors in ended] == [(0, "")] * 2
  assert ended[0][1] == f"7 images from step 8 in {out}\n" and not ended[1][1]
  assert sorted(os.listdir(out)) == ["denoising.gif", "filmstrip.png", "grid.png", "samples.npz"]
  assert np.load(out / "samples.npz")["images"].shape == (7, 8, 8, 1)
  reports = []
  for count in (4, 2, 1):
    where = tmp_path / f"evaluation{count}"
    arguments = (f"--workdir={run}", "--num=50", f"--out={where}")
    ended = scripts("diffjax.evaluation", *arguments, num_processes=count)
    assert [(status, errors) for status, _, errors in ended] == [(0, "")] * count
    assert f"wrote {where}" in ended[0][1] and not any(text for _, text, _ in ended[1:])
    reports.append(json.loads((where / "evaluation.json").read_text()))
  for report in reports:
    assert report["drawn"]["count"] == 50
    for name, value in report["drawn"].items():
      assert value == pytest.approx(reports[-1]["drawn"][name], rel=0.05, abs=0.02)


@pytest.mark.slow
def test_a_mistake_ends_all_processes_alike(tiny_data, tmp_path):
  config = pathlib.Path(__file__).parents[1] / "tiny_config.py"
  arguments = (f"--config={config}", f"--config.data.data_dir={tiny_data}", f"--workdir={tmp_path}/run")
  ended = scripts("train.py", *arguments, "--config.train.batch_size=18")
  for status, _, errors in ended:
    assert status == 1 and errors.count("\n") == 1
    assert "4 device(s) cannot share a batch of 18 evenly; use a multiple of 4" in errors
  assert not (tmp_path / "run").exists()
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "config.json").write_text("{}")
  first, second = scripts("train.py", *arguments)
  assert first[0] == second[0] == 1 and "not a valid run config" in first[2]
  assert re.search("process 0 (of 2 )?has failed", second[2])
