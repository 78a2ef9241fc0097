"""Fine print of the captions that a latent diffusion run is trained on: those of a folder of pictures."""

import json

import numpy as np
import pytest
from PIL import Image
from test_latent_run import autoencoder_config, latent_config

from diffjax import runs
from train import train

pytestmark = pytest.mark.slow


def test_a_folder_with_captions_trains_previews_and_draws(tmp_path, tiny_data, tiny_clip):
  train(autoencoder_config(tiny_data), tmp_path / "autoencoder")
  train(tiny_clip(), tmp_path / "text")
  pictures = tmp_path / "pictures"
  pictures.mkdir()
  for i in range(24):
    Image.fromarray(np.full((8, 8), 10 * i, np.uint8)).save(pictures / f"{i}.png")
  lines = [json.dumps({"file_name": f"{i}.png", "text": f"the digit {'one' if i % 2 else 'two'}"}) for i in range(24)]
  (pictures / "metadata.jsonl").write_text("\n".join(lines))
  config = latent_config(tmp_path, tiny_data)
  config.captions.templates = config.captions.held_out = ()
  config.data.update(name="image_folder", folder=str(pictures))
  config.train.update(batch_size=8, sample_every=6)
  state = train(config, tmp_path / "latent")
  assert int(state.step) == 6 and (tmp_path / "latent" / "samples" / "step_0000006.png").is_file()
  run = runs.load_run(tmp_path / "latent")
  assert run.frozen.conditioner.captions is None
  assert run.draw(2, prompt="the digit two").shape == (2, 8, 8, 1)
  (pictures / "metadata.jsonl").unlink()
  with pytest.raises(ValueError, match=r"'image_folder' has no captions; for labelled images set captions.names"):
    train(config, tmp_path / "latent")
