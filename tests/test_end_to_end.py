"""Both scripts and the evaluation as a newcomer runs them, with few steps."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

CONFIG = pathlib.Path(__file__).with_name("tiny_config.py")
CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def ended_well(process):
  out, err = process.communicate(timeout=400)
  assert (process.returncode, err) == (0, ""), err  # no warning, no log line
  return out


def test_train_sample_evaluate(script, tiny_data, tmp_path):
  run, out = tmp_path / "run", tmp_path / "out"
  arguments = [f"--config={CONFIG}", f"--config.data.data_dir={tiny_data}", f"--workdir={run}"]
  told = ended_well(script("train.py", *arguments, "--config.train.sample_every=4", "--config.train.log_every=4"))
  lines = told.splitlines()
  assert "10,597 parameters, 1,437 images, 1 device(s)" in lines[0] and str(run) in lines[0]
  assert [line.split(",")[0] for line in lines[1:]] == ["step 4/8", "step 8/8"]
  assert {"config.json", "metrics.jsonl", "loss.png", "checkpoints", "best", "samples"} <= {
    p.name for p in run.iterdir()
  }
  ended_well(
    script("sample.py", f"--workdir={run}", "--num=9", "--steps=3", "--sampler=heun", f"--out={out}", "--filmstrip")
  )
  assert np.load(out / "samples.npz")["images"].shape == (9, 8, 8, 1)
  assert {p.name for p in out.iterdir()} == {"samples.npz", "grid.png", "filmstrip.png", "denoising.gif"}
  command = [sys.executable, "-m", "diffjax.evaluation", f"--workdir={run}", f"--samples={out / 'samples.npz'}"]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert (done.returncode, done.stderr) == (0, "")
  assert np.isfinite(json.loads((run / "evaluation" / "evaluation.json").read_text())["drawn"]["frechet"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "digits_conditional"])
def test_published_configs_start(script, tiny_data, tmp_path, name):
  """The real networks, for a few steps."""
  run = tmp_path / "run"
  few = {"steps": 4, "batch_size": 16, "steps_per_call": 2, "warmup_steps": 1, "checkpoint_every": 4, "sample_every": 0}
  arguments = [f"--config={CONFIGS / name}.py", f"--config.data.data_dir={tiny_data}", f"--workdir={run}"]
  arguments += [f"--config.train.{key}={value}" for key, value in few.items()]
  assert "step 4/4" in ended_well(script("train.py", *arguments))
  label = ["--label=3,4"] if "conditional" in name else []
  assert "9 images from step 4" in ended_well(
    script("sample.py", f"--workdir={run}", "--num=9", "--steps=5", f"--out={tmp_path / 'out'}", *label)
  )
