"""What a dry run of drawing counts: the weights exactly, and programs that it neither runs nor reads weights for."""

import pytest
from test_text_to_image import pipeline  # noqa: F401 - a fixture

from diffjax.pipelines import dry_run
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
