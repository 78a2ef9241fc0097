"""A CLIP trained, stopped, resumed, loaded, evaluated and used for guidance, as the scripts do it."""

import itertools
import json

import jax
import numpy as np
import pytest
from PIL import Image

from diffjax import data, from_config, pretrained, runs
from diffjax.evaluation.__main__ import main as evaluation
from train import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clip_run(tiny_data, tmp_path_factory):
  """(folder, config, state) of a tiny CLIP's run."""
  import tiny_clip_config

  config, folder = tiny_clip_config.get_config(), tmp_path_factory.mktemp("clip")
  config.data.data_dir = str(tiny_data)
  config.train.sample_every = 4
  return folder, config, train(config, folder)


def test_resumes_bit_for_bit(clip_run, tiny_clip, tmp_path):
  config = tiny_clip(sample_every=4)
  halfway = tiny_clip(sample_every=4, steps=8)
  with pytest.MonkeyPatch.context() as patch:  # stops after four steps, as a signal would
    from diffjax.cluster import signals

    patch.setattr(signals.StopRequest, "__bool__", lambda self: True)
    patch.setattr(signals.StopRequest, "signum", 15)
    with pytest.raises(SystemExit):
      train(halfway, tmp_path)
  state = train(config, tmp_path)
  jax.tree.map(np.testing.assert_array_equal, state.params, clip_run[2].params)
  jax.tree.map(np.testing.assert_array_equal, state.ema, clip_run[2].ema)


def test_preview_is_the_similarity_matrix(clip_run):
  shown = sorted(path.name for path in (clip_run[0] / "samples").iterdir())
  assert shown == ["step_0000004.png", "step_0000008.png"]
  assert Image.open(clip_run[0] / "samples" / shown[0]).width > 500


def test_read_back_it_encodes_texts_and_pictures(clip_run):
  folder, _, state = clip_run
  clip = runs.load_clip(folder)
  texts = clip.encode_texts(["a handwritten three", "the digit 4"])
  pictures = clip.encode_pictures(np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1), np.uint8))
  assert texts.shape == (2, 8) and pictures.shape == (300, 8)
  np.testing.assert_allclose(np.linalg.norm(np.concatenate([texts, pictures]), axis=1), 1, rtol=1e-5)
  jax.tree.map(np.testing.assert_array_equal, clip.params, state.averaged)
  with pytest.raises(ValueError, match="empty"):
    clip.encode_texts([" "])


def test_exported_it_reads_back_as_published_weights(clip_run, tmp_path):
  clip = runs.load_clip(clip_run[0])
  pretrained.save_clip(tmp_path, clip.module, clip.params)
  clip.tokenizer.save(tmp_path)
  back = runs.load_clip(tmp_path)
  np.testing.assert_allclose(back.encode_texts(["a three"]), clip.encode_texts(["a three"]), atol=1e-5)
  assert back.config is None
  with pytest.raises(SystemExit, match="published weights"):
    evaluation(["evaluation", f"--workdir={tmp_path}", "--zero_shot"])


def test_a_tokenizer_of_another_model_is_refused(clip_run, tmp_path):
  clip = runs.load_clip(clip_run[0])
  pretrained.save_clip(tmp_path, clip.module, clip.params)
  words = ["".join(letters) for letters in itertools.product("abcdef", repeat=5)]
  data.train_tokenizer(words, 3000).save(tmp_path)
  with pytest.raises(ValueError, match="its model knows"):
    runs.load_clip(tmp_path)


def test_zero_shot_takes_the_most_similar_caption(clip_run):
  clip = runs.load_clip(clip_run[0])
  images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)
  captions = from_config.clip.training_captions(clip.config)
  tokens = [clip.tokenizer(texts) for texts in captions]
  from diffjax.networks import preprocess

  logits = [clip.module.apply(clip.params, preprocess(images, 8), rows) for rows in tokens]
  np.testing.assert_array_equal(clip.zero_shot(captions, images), np.argmax(logits, axis=-1))


def test_evaluation_reports_every_template(clip_run, tmp_path, capsys):
  evaluation(["evaluation", f"--workdir={clip_run[0]}", "--zero_shot", f"--out={tmp_path}"])
  report = json.loads((tmp_path / "evaluation.json").read_text())
  assert report["pictures"] == 360
  assert set(report["zero_shot"]["training templates"]) == {"a handwritten {word}", "the digit {figure}", "mean"}
  assert set(report["zero_shot"]["held-out templates"]) == {"the digit {word}", "mean"}
  assert Image.open(tmp_path / "evaluation.png").width > 500
  assert "held-out templates" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    (["--zero_shot", "--steps=5"], "--steps has no effect"),
    ([], "run of a CLIP, which cannot sample"),
  ],
)
def test_evaluation_refuses(clip_run, flags, says):
  with pytest.raises(SystemExit, match=says):
    evaluation(["evaluation", f"--workdir={clip_run[0]}", *flags])


def test_folders_that_hold_no_clip(tmp_path, tiny):
  with pytest.raises(FileNotFoundError, match="there is no folder"):
    runs.load_clip(tmp_path / "nowhere")
  (tmp_path / "model.bin").write_bytes(b"pickle")
  with pytest.raises((ValueError, FileNotFoundError)):
    runs.load_clip(tmp_path)
  train(tiny(steps=1), tmp_path / "digits")
  with pytest.raises(ValueError, match="run of a diffusion model"):
    runs.load_clip(tmp_path / "digits")
