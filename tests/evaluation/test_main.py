"""`python -m diffjax.evaluation` on a run that draws from a fixed list."""

import json
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image

from diffjax.evaluation.__main__ import main

PICTURES = np.random.default_rng(0).integers(0, 256, (90, 8, 8, 1), np.uint8)


@pytest.fixture
def run(monkeypatch):
  """A run whose pictures show their label as brightness; keeps what `draw` was asked for in `asked`."""

  def data(split):
    rows = slice(0, 60) if split == "train" else slice(60, 90)
    labels = (np.arange(90, dtype=np.int32) % 10)[rows]
    return {"image": bright(PICTURES[rows], labels), "label": labels}

  def draw(*, num, labels, **asked):
    fake.asked = asked | {"num": num, "labels": labels}
    return bright(PICTURES[:num], 0 if labels is None else labels)

  def load_run(workdir):
    if workdir != "here":
      raise FileNotFoundError(f"{workdir} holds no run.")
    return fake

  sampler = types.SimpleNamespace(name="dpmpp_2m", steps=10)
  config = types.SimpleNamespace(sampler=sampler)
  fake = types.SimpleNamespace(num_classes=10, data=data, draw=draw, config=config, frozen=None)
  module = types.SimpleNamespace(load_run=load_run, CONFIG="config.json", read_config=None)
  monkeypatch.setitem(sys.modules, "diffjax.runs", module)
  return fake


def bright(images, labels):
  return (images // 20 + 20 * np.asarray(labels).reshape(-1, 1, 1, 1)).astype(np.uint8)


def written(out):
  assert sorted(path.name for path in out.iterdir()) == ["evaluation.json", "evaluation.png"]
  assert Image.open(out / "evaluation.png").width > 600
  return json.loads((out / "evaluation.json").read_text())


def test_conditional_run_is_asked_for_every_label_evenly(run, tmp_path, capsys):
  main(["evaluation", "--workdir=here", "--num=30", "--guidance_scale=2", "--batch_size=9", f"--out={tmp_path}"])
  np.testing.assert_array_equal(np.bincount(run.asked.pop("labels")), [3] * 10)
  assert run.asked.pop("batch_size") == 9
  assert run.asked == {"num": 30, "steps": None, "sampler": None, "eta": None, "seed": 0, "guidance_scale": 2.0}
  report = written(tmp_path)
  assert "batch_size" not in report
  assert report["drawn"]["label_accuracy"] == 1
  assert report["drawn"]["nearest_ratio"] == 0
  assert (report["sampler"], report["steps"], report["train"]["count"]) == ("dpmpp_2m", 10, 60)
  assert "label accuracy" in capsys.readouterr().out


def test_unconditional_run_has_no_labels(run, tmp_path):
  run.num_classes = 0
  main(["evaluation", "--workdir=here", "--num=20", "--steps=5", "--sampler=heun", f"--out={tmp_path}"])
  assert run.asked["labels"] is None
  report = written(tmp_path)
  assert "label_accuracy" not in report["drawn"]
  assert (report["sampler"], report["steps"], report["num"]) == ("heun", 5, 20)


def test_samples_are_read_instead_of_drawn(run, tmp_path):
  held_out = run.data("test")
  np.savez(tmp_path / "samples.npz", images=held_out["image"], labels=held_out["label"])
  main(["evaluation", "--workdir=here", f"--samples={tmp_path}/samples.npz", f"--out={tmp_path}/out"])
  report = written(tmp_path / "out")
  assert not hasattr(run, "asked")
  assert report["drawn"] == report["held_out"]
  assert report["drawn"]["label_accuracy"] == 1


@pytest.mark.parametrize(
  ("arguments", "says"),
  [
    ([], "--workdir is missing"),
    (["--workdir=elsewhere"], "elsewhere holds no run"),
    (["--workdir=here", "--steps=0"], "not a positive integer"),
    (["--workdir=here", "--num=5"], "integer >= 6"),
    (["--workdir=here", "--batch_size=0"], "not a positive integer"),
    (["--workdir=here", "--smapler=heun"], "sampler"),
    (["--workdir=here", "heun"], "'heun' is not a flag"),
    (["--workdir=here", "--samples=nowhere.npz"], "no file nowhere.npz"),
    (["--workdir=here", "--samples=text.npz"], "cannot be read"),
    (["--workdir=here", "--samples=array.npy"], "cannot be read"),
    (["--workdir=here", "--samples=floats.npz"], "no array `images` of uint8"),
    (["--workdir=here", "--samples=floats.npz", "--steps=3"], "--steps has no effect"),
  ],
)
def test_mistakes_get_one_sentence(run, tmp_path, monkeypatch, capsys, arguments, says):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "text.npz").write_text("hello")
  np.save("array.npy", np.zeros(3))
  np.savez("floats.npz", images=np.zeros((9, 8, 8, 1)))
  with pytest.raises(SystemExit) as stop:
    main(["evaluation", *arguments])
  assert stop.value.code.startswith("error: ") and "\n" not in stop.value.code and says in stop.value.code
  assert capsys.readouterr() == ("", "")
  assert not (tmp_path / "here").exists()


def test_the_process_exits_with_the_status():
  done = subprocess.run([sys.executable, "-m", "diffjax.evaluation"], capture_output=True, text=True, check=False)
  assert (done.returncode, done.stdout) == (1, "")
  assert done.stderr.startswith("error: --workdir is missing")
