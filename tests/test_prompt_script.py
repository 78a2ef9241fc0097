"""sample.py asked in words: files, scores, the best of many."""

import numpy as np
import pytest
from PIL import Image

from diffjax import DiffjaxWarning
from sample import draw
from train import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(tiny_data, tmp_path_factory):
  """The folders of a tiny diffusion model and a tiny CLIP."""
  import tiny_clip_config
  import tiny_config

  made = {}
  for name, module in (("model", tiny_config), ("clip", tiny_clip_config)):
    config, made[name] = module.get_config(), tmp_path_factory.mktemp(name)
    config.data.data_dir = str(tiny_data)
    train(config, made[name])
  return made


def test_prompt_scores_and_film(folders, tmp_path):
  images = draw(folders["model"], tmp_path, num=6, clip=folders["clip"], prompt="a handwritten three", filmstrip=True)
  stored = np.load(tmp_path / "samples.npz")
  np.testing.assert_array_equal(stored["images"], images)
  assert stored["scores"].shape == (6,) and np.abs(stored["scores"]).max() <= 1
  shown = Image.open(tmp_path / "grid.png")
  draw(folders["model"], tmp_path / "plain", num=6)
  assert shown.height > Image.open(tmp_path / "plain" / "grid.png").height  # room for the scores


def test_best_of_keeps_what_clip_likes(folders, tmp_path):
  asked = dict(clip=folders["clip"], prompt="the digit 7|the digit 1::-0.5", guidance_scale=0.0)
  draw(folders["model"], tmp_path / "all", num=20, **asked)
  kept = draw(folders["model"], tmp_path / "best", num=4, best_of=20, **asked)
  everything, best = (np.load(tmp_path / name / "samples.npz") for name in ("all", "best"))
  order = np.argsort(-everything["scores"], kind="stable")[:4]
  np.testing.assert_allclose(best["scores"], everything["scores"][order], atol=1e-5)
  np.testing.assert_array_equal(kept, everything["images"][order])


def test_picture_as_a_prompt_and_another_way_of_guidance(folders, tmp_path):
  from diffjax.from_config.configuration import default_guidance_config

  Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)).save(tmp_path / "odd.png")
  config = default_guidance_config()
  config.update(method="freedom", distance="cosine", views=dict(name="none"))
  asked = dict(clip=folders["clip"], image_prompt=f"{tmp_path / 'odd.png'}::2", guidance=config)
  assert draw(folders["model"], tmp_path / "out", num=3, **asked).shape == (3, 8, 8, 1)


@pytest.mark.parametrize(
  ("asked", "says"),
  [
    (dict(prompt=""), "empty part"),
    (dict(prompt="a three::x"), "is not a number"),
    (dict(image_prompt="nowhere.png"), "there is no file nowhere.png"),
    (dict(prompt="a three", best_of=2), "selects 3 images by a prompt"),
    (dict(prompt="a three", guidance_scale=float("inf")), "guidance_scale is inf"),
    (dict(prompt="a three", cfgpp=True), "cfgpp needs guidance by a label"),
  ],
)
def test_prompts_refused(folders, tmp_path, asked, says):
  with pytest.raises(ValueError, match=says):
    draw(folders["model"], tmp_path / "out", num=3, clip=folders["clip"], **asked)
  assert not (tmp_path / "out").exists()


def test_a_long_prompt_is_cut_with_a_warning(folders, tmp_path):
  with pytest.warns(DiffjaxWarning, match="is cut off; shorten it"):
    draw(folders["model"], tmp_path, num=2, clip=folders["clip"], prompt="a handwritten three " * 20)


def test_a_clip_draws_nothing_itself(folders, tmp_path):
  with pytest.raises(ValueError, match="run of a CLIP, which cannot sample"):
    draw(folders["clip"], tmp_path / "out")
  with pytest.raises(ValueError, match="run of a diffusion model"):
    draw(folders["model"], tmp_path / "out", clip=folders["model"], prompt="a three")


def test_evaluation_asks_for_every_class(folders, tmp_path):
  import json

  from diffjax.evaluation.__main__ import main

  folder = [f"--workdir={folders['model']}", f"--clip={folders['clip']}", f"--out={tmp_path}"]
  main(["evaluation", *folder, "--num=20", "--steps=2", "--guidance_scale=10"])
  report = json.loads((tmp_path / "evaluation.json").read_text())
  assert report["drawn"]["count"] == 20 and 0 <= report["drawn"]["label_accuracy"] <= 1
  assert report["guidance_scale"] == 10
