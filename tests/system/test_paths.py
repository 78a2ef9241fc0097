"""Runs in a bucket, simulated by a local folder."""

import json
import pathlib

import buckets
import jax
import numpy as np
import pytest

from diffjax import DiffjaxWarning, plots, runs
from diffjax.runs.checkpoints import Checkpoints
from diffjax.runs.report import Report
from diffjax.system import paths, writing
from train import train

WORKDIR = "gs://bucket/runs/tiny"


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """The local folder that stands for gs://bucket."""
  buckets.install(monkeypatch, tmp_path / "cloud")
  return tmp_path / "cloud" / "bucket"


def damage(folder):
  """Flips a byte in one of the files that hold the state."""
  file = max((folder / "state").rglob("d/*"), key=lambda file: file.stat().st_size)
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 1
  file.write_bytes(bytes(data))


def test_local_folders_stay_what_they_are(tmp_path):
  assert type(paths.as_path(str(tmp_path))) is type(tmp_path) and paths.as_path(tmp_path) == tmp_path
  assert not paths.is_remote("runs/gs") and not paths.is_remote(tmp_path)


def test_other_schemes_and_missing_packages_are_refused(monkeypatch):
  with pytest.raises(ValueError, match="s3://bucket/run is neither a local folder nor one in a bucket"):
    paths.as_path("s3://bucket/run")
  monkeypatch.setattr(paths, "DRIVERS", ("no_such_package",))
  with pytest.raises(ImportError, match="pip install"):
    paths.as_path(WORKDIR)


def test_buckets_keep_their_name(bucket):
  folder = paths.as_path(WORKDIR)
  assert paths.is_remote(WORKDIR) and paths.is_remote(folder / "config.json")
  assert str(folder / "config.json") == f"{WORKDIR}/config.json" and paths.as_path(folder) == folder


def test_files_appear_whole_or_not_at_all(bucket):
  picture = plots.grid(np.zeros((4, 8, 8, 1), np.uint8))
  plots.save(picture, f"{WORKDIR}/samples/grid.png")
  assert (bucket / "runs/tiny/samples/grid.png").read_bytes().startswith(b"\x89PNG")
  with pytest.raises(ZeroDivisionError), writing.replacing(f"{WORKDIR}/half.txt") as part:
    part.write_text("half")
    raise ZeroDivisionError
  assert [file.name for file in bucket.rglob("*") if file.is_file()] == ["grid.png"]
  writing.check_writable(paths.as_path(WORKDIR))


def test_report(bucket):
  """Metrics beyond the step that a run resumes from are dropped, as in a local folder."""
  metrics = {name: np.ones(2) for name in ("loss", "grad_norm")} | {"skipped": np.zeros(2, int)}
  for start in (0, 2):
    report = Report(paths.as_path(WORKDIR), start, 6, 16, 2, lambda step: 0.1)
    for step in (start + 2, start + 4):
      report.add(step, metrics)
    report.draw_curve()
    report.close()
  lines = [json.loads(line) for line in (bucket / "runs/tiny/metrics.jsonl").read_text().splitlines()]
  assert [line["step"] for line in lines] == [2, 4, 6]
  assert (bucket / "runs/tiny/loss.png").exists() and not (bucket / "runs/tiny/tensorboard").exists()


def test_checkpoints(bucket):
  state = {"w": np.arange(5000, dtype=np.float32)}
  checkpoints = Checkpoints(paths.as_path(WORKDIR) / "checkpoints", keep=2)
  checkpoints.check_room(state)
  for step in (1, 2, 3):
    checkpoints.save(step, {"w": state["w"] * step}, {"a": 1}, {"next": step}, 1.0)
  checkpoints.wait()
  assert checkpoints.steps() == [2, 3]
  damage(bucket / "runs/tiny/checkpoints/3")
  with pytest.warns(DiffjaxWarning, match=rf"{WORKDIR}/checkpoints/3 is damaged: state/\S+ fails its checksum"):
    restored, contents = checkpoints.restore_newest(state)
  np.testing.assert_array_equal(restored["w"], 2 * state["w"])
  assert contents["data"] == {"next": 2} and checkpoints.steps() == [2]
  assert (bucket / "runs/tiny/checkpoints/damaged-3").is_dir()
  checkpoints.close()


def test_claim(tiny, bucket):
  with pytest.warns(DiffjaxWarning, match="gs://bucket/runs/tiny cannot be locked"):
    with runs.claimed(paths.as_path(WORKDIR), tiny()):
      pass
  assert runs.read_config(WORKDIR).train.steps == 8
  (bucket / "runs/tiny/best/3").mkdir(parents=True)
  (bucket / "runs/tiny/best/3/file").write_text("")
  with pytest.raises(ValueError, match=r"another config, .* train.steps: 8, 9; use the same config"):
    runs.claim(paths.as_path(WORKDIR), tiny(steps=9))


def test_mistakes(bucket):
  with pytest.raises(FileNotFoundError, match=f"{WORKDIR} holds no run"):
    runs.load_run(WORKDIR)
  (bucket / "clip").mkdir(parents=True)
  (bucket / "clip/config.json").write_text("{}")
  with pytest.raises(ValueError, match="copy them here"):
    runs.load_clip("gs://bucket/clip")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*cannot be locked")
def test_run_in_a_bucket_is_the_run_in_a_folder(tiny, tmp_path, bucket):
  """Train, damage, resume and sample."""
  here, there = train(tiny(sample_every=4), tmp_path / "run"), train(tiny(sample_every=4), WORKDIR)
  jax.tree.map(np.testing.assert_array_equal, here, there)
  names = lambda folder: {
    path.relative_to(folder).parts[0] for path in pathlib.Path(folder).rglob("*") if path.is_file()
  }
  assert names(bucket / "runs/tiny") == names(tmp_path / "run") - {"lock", "tensorboard"}
  damage(bucket / "runs/tiny/checkpoints/8")
  with pytest.warns(DiffjaxWarning, match="so the one before it is used"):
    assert runs.load_run(WORKDIR).step == 6
  with pytest.warns(DiffjaxWarning, match="so the one before it is used"):
    jax.tree.map(np.testing.assert_array_equal, here, train(tiny(sample_every=4), WORKDIR))
  run = runs.load_run(WORKDIR)
  assert run.step == 8 and run.draw(2).shape == (2, 8, 8, 1)
