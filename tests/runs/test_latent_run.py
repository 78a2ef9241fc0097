"""A latent diffusion run: what it stands on is kept in its folder, and it draws from words with nothing else."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import sample
import train as train_script
from diffjax import data, from_config, pretrained, randomness, runs
from diffjax.codecs import to_float
from diffjax.evaluation import __main__ as evaluation
from diffjax.from_config.configuration import default_autoencoder_config, default_latent_config
from diffjax.runs import autoencoder, frozen
from train import train

pytestmark = pytest.mark.slow


def autoencoder_config(data_dir):
  config = default_autoencoder_config()
  config.data.update(name="digits", image_size=8, channels=1, data_dir=str(data_dir))
  config.model.update(latent_channels=3, widths=(4, 8), layers_per_level=1, num_groups=2, middle_attention=False)
  config.train.update(steps=6, batch_size=16, steps_per_call=3, log_every=3, checkpoint_every=3, sample_every=6)
  return config


def latent_config(folder, data_dir):
  config = default_latent_config()
  config.autoencoder, config.text = str(folder / "autoencoder"), str(folder / "text")
  config.data.update(name="digits", image_size=8, channels=1, data_dir=str(data_dir))
  config.captions.update(
    names=dict(word=("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")),
    templates=("a handwritten {word}", "the digit {word}"),
    held_out=("a {word}",),
  )
  config.model.update(
    out_channels=3, widths=(8, 16), layers_per_level=1, attending=(False, True), depth=(1, 1), num_heads=(2, 2),
    only_cross_attention=(False, False), num_groups=2,
  )  # fmt: skip
  config.noise_levels.update(name="log_normal", mean=0.0, std=1.0)
  config.train.update(
    steps=6, batch_size=16, learning_rate=5e-3, steps_per_call=3, log_every=3, checkpoint_every=3, sample_every=6
  )
  config.sampler.update(steps=4, guidance_scale=2.0)
  config.sampler.grids = {"1": dict(name="karras")}
  return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_data):
  """(folder, config of the latent run in it); the two runs it stands on are gone."""
  import tiny_clip_config

  folder = tmp_path_factory.mktemp("latent")
  train(autoencoder_config(tiny_data), folder / "autoencoder")
  clip = tiny_clip_config.get_config()
  clip.data.data_dir = str(tiny_data)
  train(clip, folder / "text")
  config = latent_config(folder, tiny_data)
  codec, tower = runs.load_autoencoder(folder / "autoencoder"), runs.load_text_tower(folder / "text")
  train(config, folder / "latent")
  for name in ("autoencoder", "text"):
    shutil.move(folder / name, folder / f"gone_{name}")
  return folder, config, codec, tower


def test_latents_have_unit_variance_and_text_states_too(trained):
  folder, config, codec, tower = trained
  images = data.in_memory(runs.load_data(config, "train"))["image"]
  keys = randomness.sample_keys(jax.random.key(5), len(images))
  x0 = np.asarray(codec.encode(to_float(jnp.asarray(images)), keys))
  assert abs(x0.std() - 1) < 0.03 and float(codec.scale) != 1
  states, _ = tower.states(tower.tokenizer(_clip_captions(folder)))
  assert abs(np.asarray(states).std() - 1) < 1e-3


def _clip_captions(folder):
  config = runs.read_config(folder / "gone_text")
  return [text for template in from_config.clip.training_captions(config) for text in template]


def test_what_it_stands_on_is_kept_exactly(trained):
  folder, config, codec, tower = trained
  kept = frozen.load_frozen(config, folder / "latent")
  same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)
  same(kept.codec.params, codec.params)
  same(kept.conditioner.towers[0].params, tower.params)
  assert kept.codec.scale == codec.scale and kept.codec.shift == 0
  assert kept.conditioner.captions.shape == (2, 10, 8) and kept.conditioner.dropout == 0.1


def test_a_fresh_folder_says_what_is_missing(trained, tmp_path):
  with pytest.raises(FileNotFoundError, match=r"no folder .*/autoencoder; train an autoencoder there, or give"):
    train(trained[1], tmp_path / "other")
  assert not (tmp_path / "other").exists()


def test_stored_moments_are_those_of_the_images(trained):
  folder, config, codec, _ = trained
  stood_on = frozen.load_frozen(config, folder / "latent")
  source = runs.load_data(config, "test")
  stored = data.in_memory(frozen.encoded_once(source, stood_on))
  images = data.in_memory(source)["image"]
  assert sorted(stored) == ["label", "moments"] and stored["moments"].shape == (len(images), 4, 4, 6)
  np.testing.assert_allclose(
    codec.sample(jnp.asarray(stored["moments"]), None), codec.encode(to_float(jnp.asarray(images))), atol=2e-2
  )
  np.testing.assert_array_equal(autoencoder.encoded(codec, images[:3]), autoencoder.encoded(codec, images)[:3])


def test_prompts_draw_and_labels_do_not(trained):
  folder, _, _, _ = trained
  run = runs.load_run(folder / "latent")
  three = run.draw(2, prompt="a handwritten three")
  assert three.shape == (2, 8, 8, 1) and three.dtype == np.uint8
  both = run.draw(2, prompt=["a handwritten three", "the digit seven"])
  assert np.abs(both[0].astype(int) - three[0]).max() <= 1 and not np.array_equal(both[1], three[1])
  assert not np.array_equal(run.draw(2, prompt="a handwritten three", negative_prompt="the digit seven"), three)
  with pytest.raises(ValueError, match="write a prompt"):
    run.draw(2)
  with pytest.raises(ValueError, match="draws from text, not by labels"):
    run.draw(2, prompt="a three", labels=np.zeros(2, int))


def test_a_stopped_run_resumes_exactly_without_the_runs_it_stood_on(trained, tmp_path):
  folder, config, _, _ = trained
  whole = runs.load_run(folder / "latent")
  shutil.copytree(folder / "latent", tmp_path / "latent")
  shutil.rmtree(tmp_path / "latent" / "checkpoints" / "6")
  state = train(config, tmp_path / "latent")
  jax.tree.map(np.testing.assert_array_equal, state.averaged, whole.params)


def test_the_runs_folder_stands_in_for_both_others(trained, tmp_path):
  folder, config, codec, _ = trained
  config = config.copy_and_resolve_references()
  config.autoencoder = config.text = str(folder / "latent")
  config.train.update(steps=1, steps_per_call=1)
  train(config, tmp_path / "second")
  assert runs.load_autoencoder(tmp_path / "second").scale == codec.scale


def test_streamed_images_train_too(trained, tmp_path):
  folder, config, _, _ = trained
  config = config.copy_and_resolve_references()
  config.autoencoder = config.text = str(folder / "latent")
  config.data.update(in_memory=False, flip=True)
  config.train.steps = 3
  assert int(train(config, tmp_path / "streamed").step) == 3


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(autoencoder=""), "autoencoder is empty; give the run"),
    (dict(text=""), "text is empty; give the run"),
    ({"model.out_channels": 4}, "maps 1 channels to 3, but data.channels is 1 and model.out_channels 4"),
    ({"data.image_size": 9}, "needs a multiple of 2"),
    ({"data.flip": True}, "latents are computed once; set data.in_memory=False"),
    ({"captions.length": 20}, r"captions.length is 20, but the text encoder has only 8 positions; lower it, or train"),
    ({"data.buckets": (8, 8), "train.steps_per_call": 1}, r"data.buckets is \(8, 8\); give sizes \(H, W\)"),
    ({"autoencoder": "pixels", "model.out_channels": -1}, "model.out_channels is -1, but must be data.channels times"),
    ({"train.caption_dropout": 1.5}, r"train.caption_dropout is 1.5, but must be in \[0, 1\)"),
  ],
)
def test_mistakes(trained, tmp_path, change, message):
  folder, config, _, _ = trained
  config = config.copy_and_resolve_references()
  config.autoencoder = config.text = str(folder / "latent")
  config.update_from_flattened_dict(change)
  with pytest.raises(ValueError, match=message):
    train(config, tmp_path / "wrong")
  assert not (tmp_path / "wrong").exists()


def test_other_kinds_are_refused_by_name(trained):
  folder, _, _, _ = trained
  with pytest.raises(ValueError, match="is the run of a CLIP; give an autoencoder's"):
    runs.load_autoencoder(folder / "gone_text")
  with pytest.raises(ValueError, match="is the run of an autoencoder"):
    runs.load_text_tower(folder / "gone_autoencoder")
  with pytest.raises(ValueError, match="is the run of an autoencoder, which cannot sample"):
    runs.load_run(folder / "gone_autoencoder")


def test_a_new_run_starts_from_another_ones_network(trained, tmp_path):
  folder, config, _, _ = trained
  config = config.copy_and_resolve_references()
  config.autoencoder = config.text = config.init_from = str(folder / "latent")
  config.train.update(steps=1, steps_per_call=1, learning_rate=1e-30)
  state = train(config, tmp_path / "tuned")
  run = runs.load_run(folder / "latent")
  jax.tree.map(np.testing.assert_array_equal, state.params, run.params)
  pretrained.save_pipeline(tmp_path / "published", run.pipeline)
  config.init_from = config.autoencoder = config.text = str(tmp_path / "published")
  state = train(config, tmp_path / "again")
  jax.tree.map(np.testing.assert_array_equal, state.averaged, run.params)
  with pytest.raises(ValueError, match=r"predicts v, but prediction.name is 'eps'; set it to 'v'"):
    config.prediction.name = "eps"
    train(config, tmp_path / "other_prediction")
  with pytest.raises(ValueError, match=r"has \(.*\) at params/.*, where the config's has .*; set the keys of `model`"):
    config.prediction.name = "v"
    config.model.widths = (8, 24)
    train(config, tmp_path / "other_network")
  assert not (tmp_path / "other_network").exists() and not (tmp_path / "other_prediction").exists()


def test_single_images_carry_prompt_and_settings(trained, tmp_path):
  folder, _, _, _ = trained
  asked = dict(negative_prompt="a one", seed=3, steps=3, guidance_scale=1.5)
  images = sample.draw(folder / "latent", tmp_path, num=2, prompt="a handwritten three", **asked)
  for i, image in enumerate(images):
    opened = Image.open(tmp_path / f"{i:04d}.png")
    np.testing.assert_array_equal(np.asarray(opened), image[..., 0])
    assert opened.text["parameters"] == (
      "a handwritten three\nNegative prompt: a one\nSteps: 3, Sampler: dpmpp_2m, CFG scale: 1.5, Seed: 3, Size: 8x8,"
      f" Image: {i}"
    )


def test_prompts_from_a_file(trained, tmp_path):
  folder, _, _, _ = trained
  (tmp_path / "prompts.txt").write_text("a handwritten three\n\n  the digit seven \n")
  images = sample.draw(folder / "latent", tmp_path / "out", num=2, prompts=tmp_path / "prompts.txt")
  prompts = ["a handwritten three"] * 2 + ["the digit seven"] * 2
  expected = runs.load_run(folder / "latent").draw(4, prompt=prompts)
  np.testing.assert_array_equal(images, expected)
  texts = [Image.open(tmp_path / "out" / f"{i:04d}.png").text["parameters"] for i in range(4)]
  assert [text.split("\n")[0] for text in texts] == prompts
  assert sample.draw(folder / "latent", tmp_path / "out", prompts=tmp_path / "prompts.txt").shape[0] == 2
  assert sorted(path.name for path in (tmp_path / "out").glob("0*.png")) == ["0000.png", "0001.png"]  # the others went


@pytest.mark.parametrize(
  ("text", "asked", "message"),
  [
    (None, {}, "there is no file .*; give a text file with a prompt in each line as --prompts"),
    ("\n \n", {}, "holds no prompt; write one in each line"),
    ("a three", {"prompt": "a four"}, "--prompt and --prompts are both given"),
    ("a three", {"best_of": 4}, "--best_of selects the images of one prompt"),
  ],
)
def test_mistakes_with_a_file_of_prompts(trained, tmp_path, text, asked, message):
  if text is not None:
    (tmp_path / "prompts.txt").write_text(text)
  with pytest.raises(ValueError, match=message):
    sample.draw(trained[0] / "latent", tmp_path / "out", prompts=tmp_path / "prompts.txt", **asked)


def test_a_dry_run_counts_latents_and_what_is_frozen(trained, tmp_path, capsys):
  folder, config, codec, tower = trained
  train_script.dry_run(config, folder / "latent")
  lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines() if line.strip())
  size = sum(np.asarray(a).nbytes for a in jax.tree.leaves((codec.params, tower.params)))
  assert f"{size + 8 + 2 * 10 * 8 * 4 + 4:,} bytes" in lines["frozen"]  # scale, shift, captions, dropout


def test_until_a_checkpoint_other_parts_replace_those_kept(trained, tmp_path):
  folder, config, codec, _ = trained
  config = config.copy_and_resolve_references()
  config.autoencoder, config.text = str(folder / "gone_autoencoder"), str(folder / "gone_text")
  shutil.copytree(folder / "latent" / "tokenizer", tmp_path / "run" / "tokenizer")
  (tmp_path / "run" / "vae").mkdir()
  (tmp_path / "run" / "vae" / "config.json").write_text("{")  # as a run killed while writing leaves it
  config.train.update(steps=1, steps_per_call=1)
  train(config, tmp_path / "run")
  assert runs.load_autoencoder(tmp_path / "run").scale == codec.scale


def test_clip_guides_through_the_decoder_and_chooses(trained, tmp_path):
  folder, _, _, _ = trained
  asked = dict(prompt="a handwritten three", clip=folder / "gone_text", seed=2)
  run, prompt = runs.load_run(folder / "latent"), runs.make_prompt(runs.load_clip(folder / "gone_text"), "a three")
  plain = run.draw(6, prompt="a handwritten three", seed=2)
  guided = run.draw(6, prompt="a handwritten three", seed=2, guide=prompt)
  assert np.abs(guided.astype(int) - plain).max(axis=(1, 2, 3)).min() > 3
  images = sample.draw(folder / "latent", tmp_path, num=2, best_of=6, **asked)
  with np.load(tmp_path / "samples.npz") as written:
    scores = written["scores"]
  everything = sample.draw(folder / "latent", tmp_path / "all", num=6, **asked)
  with np.load(tmp_path / "all" / "samples.npz") as written:
    best = np.argsort(-written["scores"], kind="stable")[:2]
    np.testing.assert_allclose(scores, written["scores"][best], rtol=1e-5)
  assert np.abs(images.astype(int) - everything[best]).max() <= 1


def small(trained, tmp_path, **changes):
  """The config of a run of three steps that stands on the trained one."""
  folder, config, _, _ = trained
  config = config.copy_and_resolve_references()
  config.autoencoder = config.text = str(folder / "latent")
  config.train.update(steps=3, checkpoint_every=3, sample_every=0)
  config.update_from_flattened_dict(changes)
  return config


@pytest.mark.parametrize(("channels", "shape"), [(1, (8, 8, 1)), (4, (4, 4, 4))])
def test_a_model_of_pixels_or_their_patches(trained, tmp_path, channels, shape):
  config = small(trained, tmp_path, **{"autoencoder": "pixels", "model.out_channels": channels})
  train(config, tmp_path / "pixels")
  run = runs.load_run(tmp_path / "pixels")
  assert not (tmp_path / "pixels" / "vae").exists() and run.pipeline.shapes()[2] == shape
  assert run.draw(2, prompt="a handwritten three").shape == (2, 8, 8, 1)
  with pytest.raises(ValueError, match="only text-to-image pipelines can be saved"):
    pretrained.save_pipeline(tmp_path / "saved", run.pipeline)
  with pytest.raises(
    ValueError, match=r"model.out_channels is 3, but must be data.channels times the pixels of a square"
  ):
    train(small(trained, tmp_path, **{"autoencoder": "pixels", "data.channels": 1, "model.out_channels": 3}), tmp_path)


def test_a_text_encoder_is_trained_along_and_lengthened(trained, tmp_path):
  folder, _, _, tower = trained
  change = {"train.text_encoder": True, "captions.length": 11, "init_from": str(folder / "latent")}
  config = small(trained, tmp_path, **change)
  first = train(config, tmp_path / "along")
  run = runs.load_run(tmp_path / "along")
  (own,) = run.pipeline.conditioner.towers
  assert own.module.context == own.tokenizer.length == 11
  positions = own.params["params"]["positions"]
  assert positions.shape[0] == 11 and not np.array_equal(positions[:8], tower.params["params"]["positions"])
  assert run.draw(1, prompt="a handwritten three").shape == (1, 8, 8, 1)
  # another run starts from what was learned, as does one that does not train it
  later = runs.load_text_tower(tmp_path / "along")
  jax.tree.map(np.testing.assert_array_equal, later.params, first.averaged["text"])
  # resuming repeats it exactly
  config.train.steps = 6
  config.train.checkpoint_every = 3
  whole = train(config, tmp_path / "whole")
  shutil.rmtree(tmp_path / "whole" / "checkpoints" / "6")
  shutil.rmtree(tmp_path / "whole" / "best")
  again = train(config, tmp_path / "whole")
  jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)


def test_images_of_several_sizes_train_in_buckets(trained, tmp_path):
  pictures = tmp_path / "pictures"
  pictures.mkdir()
  for i, (width, height) in enumerate([(16, 8)] * 12 + [(8, 16)] * 12 + [(12, 12)] * 24):
    Image.new("L", (width, height), 5 * i).save(pictures / f"{i:02d}.png")
    (pictures / f"{i:02d}.txt").write_text(f"the digit {'one' if i % 2 else 'two'}")
  change = {
    "data.name": "image_folder",
    "data.folder": str(pictures),
    "captions.templates": (),
    "captions.held_out": (),
  }
  change |= {"data.buckets": ((12, 6), (8, 8), (6, 12)), "train.batch_size": 4, "train.steps": 12}
  with pytest.raises(ValueError, match=r"set train.steps_per_call=1"):
    train(small(trained, tmp_path, **change), tmp_path / "run")
  change |= {"train.steps_per_call": 1, "train.log_every": 1, "train.checkpoint_every": 6}
  config = small(trained, tmp_path, **change)
  whole = train(config, tmp_path / "run")
  shutil.rmtree(tmp_path / "run" / "checkpoints" / "12")
  shutil.rmtree(tmp_path / "run" / "best")
  again = train(config, tmp_path / "run")
  jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)
  config.data.in_memory = False
  assert int(train(config, tmp_path / "streamed").step) == 12
  with pytest.raises(ValueError, match="images are 12 x 5, but this model needs a multiple of 2"):
    train(small(trained, tmp_path, **change | {"data.buckets": ((12, 5),)}), tmp_path / "wrong")


def test_an_autoencoder_with_a_perceptual_loss_and_a_discriminator(trained, tmp_path, tiny_data):
  folder, _, _, _ = trained
  config = autoencoder_config(tiny_data)
  config.model.widths = (4, 4)
  config.train.update(steps=3, sample_every=3)
  plain = train(config, tmp_path / "plain")
  config.init_from = str(tmp_path / "plain")
  config.train.update(seed=1, learning_rate=1e-4)  # other random values, if it did not start there
  shutil.copytree(folder / "gone_text", tmp_path / "clip")
  config.loss.update(perceptual=str(tmp_path / "clip"), perceptual_weight=0.5, adversarial_weight=0.5)
  with pytest.raises(ValueError, match=r"needs a CLIP, loss.perceptual, and a loss.perceptual_weight above 0"):
    train(_without(config), tmp_path / "wrong")
  config.train.update(steps=6, checkpoint_every=3)
  state = train(config, tmp_path / "judged")
  assert sorted(state.params) == ["discriminator", "params"]
  codec = runs.load_autoencoder(tmp_path / "judged")
  assert sorted(codec.params) == ["params"]
  moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), codec.params["params"], plain.averaged["params"])
  assert 0 < max(jax.tree.leaves(moved)) < 0.02  # it started there
  # a stopped run resumes exactly, and needs the CLIP no more
  shutil.rmtree(tmp_path / "clip")
  shutil.rmtree(tmp_path / "judged" / "checkpoints" / "6")
  shutil.rmtree(tmp_path / "judged" / "best")
  again = train(config, tmp_path / "judged")
  jax.tree.map(np.testing.assert_array_equal, again.params, state.params)


def _without(config):
  config = config.copy_and_resolve_references()
  config.loss.perceptual = ""
  return config


def test_evaluation_asks_for_samples(trained):
  with pytest.raises(SystemExit) as exit:
    evaluation.main(["evaluation", f"--workdir={trained[0] / 'latent'}"])
  assert "draws from text, and which prompts to judge it by is for you to say" in exit.value.code
