"""A latent diffusion run on several devices and processes does what it does on one."""

import jax
import numpy as np
import pytest
import several
from test_latent_run import autoencoder_config, latent_config

from diffjax import runs
from train import train

pytestmark = pytest.mark.soak


def test_sharded_among_two_processes_it_trains_and_draws_as_alone(tiny_data, tiny_clip, tmp_path):
  train(autoencoder_config(tiny_data), tmp_path / "autoencoder")
  train(tiny_clip(), tmp_path / "text")
  config = latent_config(tmp_path, tiny_data)
  config.train.text_encoder = True
  state = train(config, tmp_path / "alone")
  run = runs.load_run(tmp_path / "alone")
  drawn = run.draw(5, prompt="the digit two")
  asked = dict(like=str(tmp_path / "alone"), config={"parallel": "fsdp"}, draw=5, prompt="the digit two")
  seen, _ = several.run(tmp_path, "pair", tiny_data, num_processes=2, devices=2, **asked)
  assert sorted(p.name for p in (tmp_path / "run").iterdir() if p.is_dir()) == sorted(
    p.name for p in (tmp_path / "alone").iterdir() if p.is_dir()
  )
  for own in seen:
    leaves = [own[f"state{i}"] for i in range(sum(key.startswith("state") for key in own))]
    for a, b in zip(jax.tree.leaves(state), leaves, strict=True):
      np.testing.assert_allclose(a, b, atol=1e-3)
    assert np.abs(own["drawn"].astype(int) - drawn).max() <= 2
