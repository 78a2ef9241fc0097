"""What a dry run of drawing counts: the weights exactly, and programs that it neither runs nor reads weights for."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_config
import tiny_runs
from test_text_to_image import pipeline  # noqa: F401 - a fixture

from diffjax import pretrained, runs
from diffjax.pipelines import dry_run
from diffjax.pretrained import tensors
from diffjax.pretrained.stable_diffusion.pipeline import PublishedDefaults
from diffjax.system import memory

pytestmark = pytest.mark.slow


def test_weights_and_the_largest_program(pipeline):  # noqa: F811
  rows = dry_run.dry_run(pipeline, 3, steps=2, size=(16, 24), batch_size=2)
  assert rows["images"] == "2 at a time of 16 x 24 pixels"
  assert rows["network"] >= memory.tree_bytes(pipeline.denoiser.network.params)
  assert rows["autoencoder"] == memory.tree_bytes(pipeline.codec.params) + 8  # scale and shift
  weights = rows["text encoder"] + rows["network"] + rows["autoencoder"]
  assert rows["each device"] == weights + max(rows["denoising"], rows["decoding"])
  larger = dry_run.dry_run(pipeline, 3, steps=2, size=(32, 48))
  assert larger["decoding"] > 4 * rows["decoding"] and larger["network"] == rows["network"]
  assert "2 at a time" in dry_run.text(rows) and "KiB" in dry_run.text(rows)


def test_an_impossible_size_is_refused(pipeline):  # noqa: F811
  with pytest.raises(ValueError, match="size is 15x24, but both sides must be multiples of 2"):
    dry_run.dry_run(pipeline, 1, size=(15, 24))


def test_published_weights_are_counted_but_not_read(pipeline, tmp_path, monkeypatch):  # noqa: F811
  scheduler = dict(_class_name="DDIMScheduler", beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
  published = pretrained.from_diffusers(scheduler | {"clip_sample": False})
  pipeline = dataclasses.replace(pipeline, defaults=PublishedDefaults(published))
  pretrained.save_pipeline(tmp_path / "saved", pipeline)
  monkeypatch.setattr(tensors.Stored, "read", lambda self: pytest.fail("read"))
  opened, source = runs.open_pipeline(tmp_path / "saved", read=False)
  assert source == "published weights"
  assert {leaf.dtype for leaf in jax.tree.leaves(opened.denoiser.network.params)} == {np.dtype("float32")}
  rows = dry_run.dry_run(opened, 2, steps=2)
  of_run = dry_run.dry_run(pipeline, 2, steps=2)
  assert rows["autoencoder"] == of_run["autoencoder"] and abs(rows["decoding"] / of_run["decoding"] - 1) < 0.1
  monkeypatch.undo()
  with pretrained.unread():
    damaged = tmp_path / "saved" / "unet" / "diffusion_pytorch_model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(ValueError, match="not a valid safetensors file"):
      pretrained.load_pipeline(tmp_path / "saved")


@pytest.mark.parametrize("conditional", [False, True])
def test_models_of_labels_too(tmp_path, conditional):
  config = tiny_config.get_config()
  config.model.update(num_classes=10 if conditional else 0, null_label=conditional)
  run = tiny_runs.a_run(config)
  plain = dry_run.dry_run(run.pipeline, 4)
  assert "text encoder" not in plain and plain["each device"] > plain["network"]
  if conditional:
    assert dry_run.dry_run(run.pipeline, 4, labels=True, guidance_scale=2.0)["denoising"] > plain["denoising"]
