"""Whole pipelines against diffusers' own on the same random weights, drawing from the same noise."""

import json

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from diffusers_latent import TEXTS  # noqa: E402 - after the skips

from diffjax import pretrained  # noqa: E402

NOISE = np.random.default_rng(0).normal(size=(2, 8, 12, 4)).astype(np.float32)
SIZE = (16, 24)
CLOSE = dict(rtol=1e-4, atol=2e-4)


def their_images(theirs, prompts, scale=7.5, steps=10, **asked):
  height, width = SIZE
  latents = torch.from_numpy(np.moveaxis(NOISE, -1, 1).copy())
  drawn = theirs(
    prompts, num_inference_steps=steps, height=height, width=width, guidance_scale=scale, latents=latents,
    output_type="pt", **asked,
  )  # fmt: skip
  return 2 * np.moveaxis(drawn.images.numpy(), 1, -1) - 1


def our_images(folder, prompts, scale=7.5, steps=10, **asked):
  drawn = pretrained.load_pipeline(folder).draw(
    2, prompt=prompts, steps=steps, size=SIZE, guidance_scale=scale, noise=NOISE, floats=True, **asked
  )
  return np.clip(drawn.images, -1, 1)


@pytest.mark.parametrize("kind", ["1", "2", "xl"])
def test_prompts_and_a_negative_prompt(both, kind):
  theirs, folder = both(kind)
  expected = their_images(theirs, TEXTS[:2], negative_prompt=TEXTS[2:] * 2)
  assert expected.std() > 0.1 and np.abs(expected[0] - expected[1]).max() > 0.1
  np.testing.assert_allclose(our_images(folder, TEXTS[:2], negative_prompt=TEXTS[2]), expected, **CLOSE)


@pytest.mark.parametrize(("kind", "scale"), [("1", 1.0), ("xl", 5.0)])
def test_without_guidance_or_without_a_negative_prompt(both, kind, scale):
  theirs, folder = both(kind)
  expected = their_images(theirs, TEXTS[:2], scale)
  np.testing.assert_allclose(our_images(folder, TEXTS[:2], scale), expected, **CLOSE)


def test_clip_skip_reads_an_earlier_layer(both):
  theirs, folder = both("1")
  encode = lambda **asked: pretrained.load_pipeline(folder).conditioner.conds(1, SIZE, prompt=TEXTS[0], **asked)[0]
  ids = theirs.tokenizer(TEXTS[0], padding="max_length", return_tensors="pt").input_ids
  hidden = theirs.text_encoder(ids, output_hidden_states=True).hidden_states
  for skip in (0, 1):
    expected = theirs.text_encoder.final_layer_norm(hidden[-1 - skip])
    np.testing.assert_allclose(encode(clip_skip=skip)["context"], expected, **CLOSE)
  theirs, folder = both("xl")
  expected = theirs.encode_prompt(TEXTS[0], do_classifier_free_guidance=False, clip_skip=1)[0]
  np.testing.assert_allclose(encode(clip_skip=1)["context"], expected, **CLOSE)


def test_other_schedulers_of_the_folder(both, tmp_path):
  theirs, _ = both("1")
  other = diffusers.EulerDiscreteScheduler.from_config(theirs.scheduler.config)
  parts = {name: part for name, part in theirs.components.items() if name != "scheduler"}
  changed = diffusers.StableDiffusionPipeline(**parts, scheduler=other, requires_safety_checker=False)
  changed.save_pretrained(tmp_path)
  loaded = pretrained.load_pipeline(tmp_path)
  changed.set_progress_bar_config(disable=True)
  sigma = float(loaded.defaults.grid(10)[0])
  np.testing.assert_allclose(sigma, other.sigmas[0] if other.num_inference_steps == 10 else sigma)
  expected = their_images(changed, TEXTS[:2])
  np.testing.assert_allclose(our_images(tmp_path, TEXTS[:2]), expected, **CLOSE)


def test_the_refiner_reads_the_aesthetic_score(both):
  theirs, folder = both("refiner")
  ours = pretrained.load_pipeline(folder)
  cond, null_cond = ours.conditioner.conds(1, SIZE, prompt=TEXTS[0])
  np.testing.assert_array_equal(cond["sizes"], [[16, 24, 0, 0, 6.0]])
  np.testing.assert_array_equal(null_cond["sizes"], [16, 24, 0, 0, 2.5])
  hidden, _, pooled, _ = theirs.encode_prompt(TEXTS[0], do_classifier_free_guidance=False)
  np.testing.assert_allclose(cond["context"], hidden, **CLOSE)
  np.testing.assert_allclose(cond["pooled"], pooled, **CLOSE)


def test_what_is_missing_is_named(both, tmp_path):
  _, folder = both("1")
  with pytest.raises(FileNotFoundError, match=r"holds no model_index\.json; give the folder of a whole pipeline"):
    pretrained.load_pipeline(folder / "unet")
  broken = tmp_path / "broken"
  broken.mkdir()
  index = json.loads((folder / "model_index.json").read_text())
  (broken / "model_index.json").write_text(json.dumps(index))
  for name in ("scheduler", "tokenizer", "text_encoder", "unet"):
    (broken / name).symlink_to(folder / name)
  with pytest.raises(FileNotFoundError, match="lacks its component vae/; download the whole model again"):
    pretrained.load_pipeline(broken)


def test_mistakes_in_a_request(both):
  pipeline = pretrained.load_pipeline(both("1")[1])
  for asked, says in (
    (dict(), "draws from text; write a prompt"),
    (dict(prompt=" "), "prompt ' ' is empty; say what"),
    (dict(prompt=["a", "b"]), "2 prompts for 3 images; give one for all, or one for each"),
    (dict(prompt="a", labels=np.zeros(3, int)), "draws from text, not by labels"),
    (dict(prompt="a", size=(15, 24)), r"size is 15x24, but both sides must be multiples of 2 .* use 16x24"),
    (dict(prompt="a", negative_prompt="b", guidance_scale=1.0), "negative_prompt has no effect"),
    (dict(prompt="a", clip_skip=3), r"clip_skip is 3, but must be in 0\.\.2"),
  ):
    with pytest.raises(ValueError, match=says):
      pipeline.draw(3, steps=2, **asked)


@pytest.mark.parametrize("strength", [None, 0.6])
def test_inpainting_networks_redraw_what_the_mask_covers(both, strength):
  theirs, folder = both("inpaint")
  rng = np.random.default_rng(3)
  image, mask = rng.integers(0, 256, (*SIZE, 3), np.uint8), np.zeros(SIZE, bool)
  mask[3:11, 8:17] = True
  pipeline = pretrained.load_pipeline(folder)
  drawn = pipeline.draw(
    2, prompt=TEXTS[:2], steps=10, size=SIZE, guidance_scale=7.5, noise=NOISE, floats=True, init_image=image, mask=mask,
    negative_prompt=TEXTS[2], strength=strength,
  ).images  # fmt: skip
  np.testing.assert_allclose(
    drawn[:, ~mask], np.broadcast_to(image[~mask] / 127.5 - 1, drawn[:, ~mask].shape), atol=1e-6
  )
  if strength is not None:
    return  # their noise is drawn inside
  as_float = torch.from_numpy(np.moveaxis(image / 127.5 - 1, -1, 0)[None].astype(np.float32))
  hole = torch.from_numpy(mask[None, None].astype(np.float32))
  latents = theirs.vae.encode(as_float * (hole < 0.5)).latent_dist.mode() * theirs.vae.config.scaling_factor
  height, width = SIZE
  expected = theirs(
    TEXTS[:2], image=as_float, mask_image=hole, masked_image_latents=latents, negative_prompt=TEXTS[2:] * 2,
    num_inference_steps=10, height=height, width=width, guidance_scale=7.5, output_type="pt", strength=1.0,
    latents=torch.from_numpy(np.moveaxis(NOISE, -1, 1).copy()),
  ).images  # fmt: skip
  expected = 2 * np.moveaxis(expected.numpy(), 1, -1) - 1
  np.testing.assert_allclose(np.clip(drawn, -1, 1)[:, mask], expected[:, mask], **CLOSE)
  assert expected[:, mask].std() > 0.1


def test_inpainting_networks_need_an_image_and_a_mask(both):
  pipeline = pretrained.load_pipeline(both("inpaint")[1])
  for asked in ({}, {"init_image": np.zeros((*SIZE, 3), np.uint8)}):
    with pytest.raises(ValueError, match="redraws a part of an image; give an init image and a mask"):
      pipeline.draw(1, prompt="a", steps=2, size=SIZE, **asked)


@pytest.mark.parametrize("kind", ["1", "xl", "refiner", "inpaint"])
def test_round_trip(both, tmp_path, kind):
  theirs, folder = both(kind)
  ours = pretrained.load_pipeline(folder)
  pretrained.save_pipeline(tmp_path, ours)
  again = pretrained.load_pipeline(tmp_path)
  for part in (
    lambda p: p.denoiser.network.params,
    lambda p: p.codec.params,
    lambda p: [t.params for t in p.conditioner.towers],
  ):
    jax.tree.map(np.testing.assert_array_equal, part(again), part(ours))
  opened = type(theirs).from_pretrained(tmp_path)
  for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
    if getattr(theirs, name, None) is not None:
      found, expected = getattr(opened, name).state_dict(), getattr(theirs, name).state_dict()
      assert all(torch.equal(found[key].squeeze(), expected[key].squeeze()) for key in expected), name
  assert opened.scheduler.config.prediction_type == theirs.scheduler.config.prediction_type
  prompts = [opened.tokenizer_2 if kind == "refiner" else opened.tokenizer][0](TEXTS, padding="max_length").input_ids
  np.testing.assert_array_equal(prompts, ours.conditioner.towers[-1].tokenizer(TEXTS))


def test_a_small_decoder_shows_the_film_strip(both, tmp_path):
  import sample

  _, folder = both("1")
  blocks = dict(encoder_block_out_channels=(4, 4), decoder_block_out_channels=(4, 4))
  small = diffusers.AutoencoderTiny(**blocks, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))
  small.save_pretrained(tmp_path / "small")
  asked = dict(num=1, prompt=TEXTS[0], size=SIZE, steps=3, filmstrip=True)
  plain = sample.draw(folder, tmp_path / "plain", **asked)
  images = sample.draw(folder, tmp_path / "out", preview_decoder=str(tmp_path / "small"), **asked)
  np.testing.assert_array_equal(images, plain)
  strips = [(tmp_path / name / "filmstrip.png").read_bytes() for name in ("plain", "out")]
  assert strips[0] != strips[1]
  with pytest.raises(ValueError, match="--preview_decoder decodes the film strip; add --filmstrip"):
    sample.draw(folder, tmp_path / "out", preview_decoder=str(tmp_path / "small"), **asked | {"filmstrip": False})
  diffusers.AutoencoderTiny(
    latent_channels=8, **blocks, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)
  ).save_pretrained(tmp_path / "other")
  with pytest.raises(ValueError, match="decodes latents of 8 channels, 2 pixels wide, but the model's have 4"):
    sample.draw(folder, tmp_path / "out", preview_decoder=str(tmp_path / "other"), **asked)
