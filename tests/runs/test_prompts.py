"""Text prompts: how they are parsed, and that they change the samples."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from oracles import Halved

from diffjax import DiffjaxWarning, from_config, guidance, runs, samplers
from diffjax.codecs import Pixels
from diffjax.conditioning import split_prompt
from diffjax.from_config import configuration, diffusion
from diffjax.guidance.energies.clip_targets import with_classes
from diffjax.networks import unit
from diffjax.pipelines import Pipeline, pipeline


@pytest.fixture
def clip(tiny_clip):
  """A CLIP with random weights."""
  config = tiny_clip()
  module = from_config.clip.module(config)
  return runs.ClipRun(
    module, from_config.clip.initial_params(config, jax.random.key(0)), from_config.clip.tokenizer(config), config
  )


@pytest.fixture
def model(tiny):
  config = tiny()
  params = from_config.initial_state(config).params
  moved = jax.tree.map(lambda p: np.asarray(p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape)), params)
  return runs.Run(config, moved, 0)


@pytest.mark.parametrize(
  ("prompt", "parts"),
  [
    ("a handwritten three", [("a handwritten three", 1.0)]),
    ("a three | a four::-0.5|five::2", [("a three", 1.0), ("a four", -0.5), ("five", 2.0)]),
    ("::odd", None),
    ("a three||", None),
    ("", None),
    ("a three::many", None),
    ("a three::nan", None),
    ("a three::1::2", None),
  ],
)
def test_texts_and_weights(prompt, parts):
  if parts is not None:
    assert split_prompt(prompt) == parts
    return
  with pytest.raises(ValueError, match=r"empty part|is not a number"):
    split_prompt(prompt)


def test_texts_and_pictures_become_one_energy(clip):
  picture = np.random.default_rng(0).integers(0, 256, (20, 12, 3), np.uint8)
  prompt = runs.make_prompt(clip, "a three|a four::-3", image_prompts=[(picture, 4.0)])
  np.testing.assert_allclose(prompt.energy.weights, [1 / 8, -3 / 8, 4 / 8])
  expected = [*clip.encode_texts(["a three", "a four"]), *clip.encode_pictures(picture[None])]
  np.testing.assert_allclose(prompt.energy.targets, expected, atol=1e-6)
  only = runs.make_prompt(clip, image_prompts=[(picture, 1.0)])
  assert only.energy.targets.shape == (1, 8)
  with pytest.raises(ValueError, match="empty part"):
    runs.make_prompt(clip)


def test_clip_judges_decoded_pictures(tiny):
  """The model's x0 is of size 4, its pictures are of size 8."""
  seen = []

  def features(images):
    seen.append(images.shape[1:])
    return unit(images[:, :, 0, 0])

  config = configuration.default_guidance_config()
  config.update(scale=2.0, views=dict(name="none"))
  prompt = runs.Prompt(guidance.clip(Partial(features), np.eye(8)[:2]), config)
  denoiser = Partial(lambda x, sigma, cond=None, *, key=None: 0.5 * x)
  guided, _ = prompt.guide(denoiser, samplers.Euler(), Halved())
  x, keys = jax.random.normal(jax.random.key(0), (2, 4, 4, 1)), jax.random.split(jax.random.key(0), 2)
  slope = jax.grad(lambda x: prompt.energy(Halved().decode(0.5 * x)).sum())(x)
  np.testing.assert_allclose(
    guided(x, jnp.float32(3.0), key=keys), 0.5 * x - 2.0 * 3.0**2 * slope, rtol=1e-4, atol=1e-5
  )
  Pipeline(denoiser, (8, 8, 1), diffusion.Defaults(tiny()), codec=Halved()).draw(2, steps=2, prompt=prompt)
  assert set(seen) == {(8, 8, 1)}


@pytest.mark.slow
def test_pictures_get_nearer_to_the_prompt(clip, model):
  """Images guided down the distance to a text score higher; guided up it, they score lower."""
  plain = model.draw(12, sampler="euler", steps=6)
  prompt = runs.make_prompt(clip, "a three", scale=300.0)
  away = runs.make_prompt(clip, "a three", scale=-300.0)
  scores = [
    prompt.scores(images).mean()
    for images in (
      model.draw(12, sampler="euler", steps=6, prompt=away),
      plain,
      model.draw(12, sampler="euler", steps=6, prompt=prompt),
    )
  ]
  assert scores == sorted(scores) and scores[2] - scores[0] > 0.01
  np.testing.assert_array_equal(
    model.draw(12, sampler="euler", steps=6, prompt=runs.make_prompt(clip, "a three", scale=0.0)), plain
  )


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_is_told_and_draws_all_the_same(clip, model):
  """Scale and targets are so large that the energy overflows."""
  broken = runs.make_prompt(clip, "a three", scale=1e30)
  broken.energy = broken.energy.replace(targets=broken.energy.targets * 1e30)
  with pytest.warns(DiffjaxWarning, match="gradients at sigma"):
    drawn = model.draw(4, sampler="euler", steps=3, prompt=broken)
    jax.effects_barrier()
  np.testing.assert_array_equal(drawn, model.draw(4, sampler="euler", steps=3))


@pytest.mark.slow
def test_the_program_of_a_prompt_can_be_kept_on_disk(clip, model):
  """Host callbacks would prevent that, and every start would compile again."""
  denoiser, _ = runs.make_prompt(clip, "a three").guide(
    from_config.denoiser(model.config, model.params), samplers.Euler(), Pixels()
  )
  x, keys = np.zeros((2, 8, 8, 1), np.float32), jax.random.split(jax.random.key(0), 2)
  lower = jax.jit(lambda denoiser, x, keys: denoiser(x, 1.0, key=keys)).lower
  assert "callback" not in lower(denoiser, x, keys).as_text()
  assert "callback" in lower(denoiser.replace(report=guidance.energy.warn_nonfinite), x, keys).as_text()


@pytest.mark.slow
def test_prompt_scale_and_weight_do_not_compile_again(clip, model):
  import logging

  compiled = []
  handler = logging.Handler()
  handler.emit = lambda record: compiled.append(record.getMessage())
  logger = logging.getLogger("jax._src.interpreters.pxla")
  jax.config.update("jax_log_compiles", True)
  logger.addHandler(handler)
  try:
    for text, scale in (("a three|a four", 100.0), ("the digit 7|nothing::-0.5", 250.0)):
      prompt = runs.make_prompt(clip, text, scale=scale)
      compiled.clear()
      model.draw(4, steps=3, prompt=prompt)
  finally:
    logger.removeHandler(handler)
    jax.config.update("jax_log_compiles", False)
  assert not [text for text in compiled if "draw" in text]


def test_words_are_guided_as_the_clip_says_and_pictures_by_the_default(clip):
  clip.config.guidance.update(distance="softmax", scale=5.0)
  picture = np.zeros((8, 8, 3), np.uint8)
  words = runs.make_prompt(clip, "a three|a four::-1")
  assert words.config == clip.config.guidance and words.energy.distance == "softmax"
  expected = [*clip.encode_texts(["a three", "a four"]), *clip.classes]
  np.testing.assert_allclose(words.energy.targets, expected, atol=1e-6)
  np.testing.assert_array_equal(words.energy.weights, [0.5, -0.5] + [0] * (len(expected) - 2))
  for asked in (dict(), dict(prompt="a three")):
    pictures = runs.make_prompt(clip, **asked, image_prompts=[(picture, 1.0)])
    assert pictures.config == configuration.default_guidance_config()
  published = dataclasses.replace(clip, config=None)
  assert runs.make_prompt(published, "a three").config == configuration.default_guidance_config()
  with pytest.raises(ValueError, match="at least two prompts"):
    runs.make_prompt(published, "a three", config=clip.config.guidance)


def test_classes_are_means_of_their_captions(clip):
  captions = from_config.clip.training_captions(clip.config)
  mean = np.mean([clip.encode_texts(texts) for texts in captions], axis=0)
  np.testing.assert_allclose(clip.classes, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)
  assert dataclasses.replace(clip, config=None).classes is None


@pytest.mark.parametrize(
  ("weights", "read_as"),
  [([1, 0], [1, 0, 1, 0, 0]), ([1, -1], [1, 0, 1, 0, 0]), ([1, 2], [1, 1, 1, 1, 0]), ([-1, 0], [0, 0, 0, 0, 1])],
)
def test_what_a_picture_should_be_read_as(weights, read_as):
  """Two texts near the first two of three classes."""
  texts, classes = np.array([[0.9, 0.1, 0], [0.1, 0.9, 0]]), np.eye(3)
  asked = with_classes(classes, {"targets": texts, "weights": np.array(weights, np.float32)})
  np.testing.assert_array_equal(asked["asked"], np.array(read_as, bool))
  np.testing.assert_array_equal(asked["weights"], [*weights, 0, 0, 0])
  np.testing.assert_array_equal(asked["targets"], [*texts, *classes])


@pytest.mark.slow
def test_pictures_that_are_read_as_something_else_are_drawn_again(clip, model):
  """With a rule of its own: images must be darker than the median of the first ones drawn."""
  config = configuration.default_guidance_config()
  config.update(scale=0.0, views=dict(name="none"))
  prompt = runs.make_prompt(clip, "a three", config=config)
  options = dict(sampler="euler", eta=1.0, steps=2, prompt=prompt)
  first = model.draw(12, **options)
  limit = np.median(first.mean((1, 2, 3)))
  asked = []

  class Dark(runs.Prompt):
    def accepts(self, images):
      asked.append(len(images))
      return images.mean((1, 2, 3)) <= limit

  dark = Dark(**{field.name: getattr(prompt, field.name) for field in dataclasses.fields(prompt)})
  options["prompt"] = dark
  drawn = model.draw(12, **options)
  kept = first.mean((1, 2, 3)) <= limit
  np.testing.assert_array_equal(drawn[kept], first[kept])
  assert (drawn[~kept] != first[~kept]).any((1, 2, 3)).all()
  assert 2 <= len(asked) < pipeline.MAX_ATTEMPTS and (drawn.mean((1, 2, 3)) <= limit).all()
  alone, path = model.draw(3, trajectory=True, **options)
  np.testing.assert_array_equal(alone, drawn[:3])  # a picture depends on itself alone
  np.testing.assert_array_equal(path[-1], alone)
  limit = -1
  asked.clear()
  assert model.draw(12, **options).shape == drawn.shape and len(asked) == pipeline.MAX_ATTEMPTS - 1


def test_shares_say_what_is_accepted(clip):
  clip.config.guidance.update(distance="softmax", accept=0.5)
  prompt = runs.make_prompt(clip, "a three")
  images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
  logits = clip.logit_scale * clip.encode_pictures(images) @ np.asarray(prompt.energy.targets).T
  shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  share = shares[:, prompt.asked].sum(axis=1)
  prompt.config.accept = float(np.median(share))
  np.testing.assert_array_equal(prompt.accepts(images), share >= np.median(share))
  np.testing.assert_array_equal(prompt.accepts(images / np.float32(127.5) - 1), prompt.accepts(images))
  for all_are in (dataclasses.replace(prompt, scale=-1.0), runs.make_prompt(clip, image_prompts=[(images[0], 1.0)])):
    assert all_are.accepts(images).all()


def test_guidance_by_number_of_steps(clip, model):
  config = configuration.default_guidance_config()
  config.update(sampler="heun", scale=2.0)
  config.by_steps = {"3": dict(scale=5.0, repeats=4), "10": dict(sampler="euler")}
  prompt = runs.make_prompt(clip, "a three", config=config)
  seen = lambda prompt: (prompt.config.scale, prompt.config.repeats, prompt.sampler)
  assert seen(prompt.at(2)) == (2.0, 1, "heun")
  assert seen(prompt.at(9)) == (5.0, 4, "heun")
  assert seen(prompt.at(9, repeats=2)) == (5.0, 2, "heun")
  assert seen(prompt.at(10)) == (2.0, 1, "euler")
  assert seen(prompt) == (2.0, 1, "heun")
  assert runs.make_prompt(clip, "a three").at(5).sampler is None


@pytest.mark.slow
def test_pictures_are_drawn_by_number_of_steps(clip, model):
  config, plain = configuration.default_guidance_config(), configuration.default_guidance_config()
  config.by_steps = {"3": dict(sampler="heun", scale=5.0, repeats=4)}
  plain.update(scale=5.0, repeats=4)
  draw = lambda config, **options: model.draw(
    2, prompt=runs.make_prompt(clip, "a three", config=config), steps=3, **options
  )
  drawn = draw(config)
  np.testing.assert_array_equal(drawn, draw(plain, sampler="heun"))
  assert (draw(config, sampler="euler") != drawn).any() and (draw(config, repeats=1) != drawn).any()


@pytest.mark.parametrize(
  ("change", "says"),
  [
    (dict(method="dsp"), "did you mean 'dps'"),
    (dict(distance="angular"), "choose one of spherical"),
    (dict(sampler="huen"), "did you mean 'heun'"),
    (dict(accept=1.0), "accept is 1.0, but must be"),
    (dict(by_steps={"few": {}}), "a key 'few'"),
    (dict(by_steps={"0": {}}), "a key '0'"),
    (dict(by_steps={"2": dict(scael=1.0)}), "did you mean 'scale'"),
    (dict(by_steps={"2": dict(sampler="huen")}), "did you mean 'heun'"),
  ],
)
def test_guidance_of_a_clip_is_checked_before_it_is_trained(tiny_clip, change, says):
  config = tiny_clip()
  config.guidance.update(change)
  with pytest.raises(ValueError, match=says):
    from_config.check(config)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["energy", "disco", "dps", "universal", "freedom", "tfg"])
def test_every_preset_draws(clip, model, name):
  import importlib.util
  import pathlib

  path = pathlib.Path(__file__).parents[2] / "configs" / "guidance.py"
  spec = importlib.util.spec_from_file_location("presets", path)
  presets = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(presets)
  config = presets.get_config(name)
  assert set(config) == set(configuration.default_guidance_config())
  config.repeats = min(config.repeats, 2)
  drawn = model.draw(4, sampler="euler", eta=0.8, steps=4, prompt=runs.make_prompt(clip, "a three", config=config))
  assert drawn.shape == (4, 8, 8, 1) and drawn.std() > 1


def test_guidance_that_moves_the_mean_wraps_the_sampler(clip, model):
  config = configuration.default_guidance_config()
  config.update(method="dps", repeats=2)
  guided, method = runs.make_prompt(clip, "a three", config=config).guide(
    from_config.denoiser(model.config, model.params), samplers.Euler(), Pixels()
  )
  assert guided.position == "mean"
  assert isinstance(method, samplers.Recurrent) and isinstance(method.sampler, samplers.MeanGuided)


@pytest.mark.parametrize(
  ("change", "says"),
  [
    (dict(method="dsp"), "did you mean 'dps'"),
    (dict(distance="angular"), "choose one of spherical"),
    (dict(views=dict(name="cutout")), "did you mean 'cutouts'"),
    (dict(views=dict(name="small_views", counts=3)), "no parameter 'counts'"),
    (dict(penalties=dict(out_of_rnage=1.0)), "did you mean 'out_of_range'"),
    (dict(options=dict(clmap=1.0)), "no parameter 'clmap'"),
    (dict(scale=float("nan")), "must be finite"),
    (dict(repeats=0), "a whole number of at least 1"),
  ],
)
def test_guidance_config_that_cannot_work(clip, model, change, says):
  config = configuration.default_guidance_config()
  config.update(change)
  with pytest.raises(ValueError, match=says):
    model.draw(2, steps=2, prompt=runs.make_prompt(clip, "a three", config=config))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m_sde", "restart"])
def test_samplers_draw_to_a_prompt(clip, model, name):
  """One of each kind; tests/guidance/energies checks all of them against a closed-form posterior."""
  options = {"t_min": 0.5, "t_max": 2.0} if name == "restart" else {}
  config = configuration.default_guidance_config()
  config.views = dict(name="small_views", count=1)
  draw = lambda scale: model.draw(
    2, sampler=name, steps=4, prompt=runs.make_prompt(clip, "a three", config=config, scale=scale), **options
  )
  assert np.abs(draw(100.0).astype(int) - draw(0.0)).max() > 1


@pytest.mark.slow
def test_a_prompt_for_a_picture_to_start_from(clip, model):
  start = np.full((8, 8, 1), 80, np.uint8)
  asked = dict(sampler="euler", steps=4, init_image=start, strength=0.5)
  guided = model.draw(3, prompt=runs.make_prompt(clip, "a three", scale=300.0), **asked)
  assert np.abs(guided.astype(int) - model.draw(3, **asked)).max() > 1
