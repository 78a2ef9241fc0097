"""CLIP and SigLIP against transformers on the same random weights, by way of saved folders."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from diffjax import pretrained
from diffjax.networks import CLIP, PUBLISHED_CLIP

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from clip_models import (  # noqa: E402 - after the skips
  VARIANTS,
  clip,
  open_clip_config,
  open_clip_tensors,
  pictures,
  randomised,
  siglip,
  to_torch,
  tokens,
)

pytestmark = pytest.mark.slow
BOUND = 1e-5


def outputs(model, images, ids):
  """Of transformers: image and text outputs with their hidden states, and the logits [pictures, texts]."""
  with torch.no_grad():
    image = model.get_image_features(to_torch(images), output_hidden_states=True)
    text = model.get_text_features(torch.from_numpy(ids).long(), output_hidden_states=True)
    whole = model(input_ids=torch.from_numpy(ids).long(), pixel_values=to_torch(images))
  return image, text, whole.logits_per_image


def agree(model, folder):
  model.save_pretrained(folder)
  ours, params = pretrained.load_clip(folder)
  images, ids = pictures(model), tokens()
  image, text, logits = outputs(model, images, ids)
  close(ours, params, "encode_image", images, image)
  close(ours, params, "encode_text", ids, text)
  got = jax.jit(ours.apply)(params, images, ids)
  np.testing.assert_allclose(got, logits, atol=BOUND)
  return ours, params


def close(ours, params, method, inputs, theirs):
  got = jax.jit(lambda params, inputs: ours.apply(params, inputs, method=method))(params, inputs)
  assert np.abs(got.features).max() > 0.1
  np.testing.assert_allclose(got.features, theirs.pooler_output, atol=BOUND)
  np.testing.assert_allclose(got.last, theirs.last_hidden_state, atol=BOUND)
  assert len(got.hidden) == len(theirs.hidden_states)
  for a, b in zip(got.hidden, theirs.hidden_states):
    np.testing.assert_allclose(a, b, atol=BOUND)


@pytest.mark.parametrize("name", VARIANTS)
def test_clip_agrees(name, tmp_path):
  agree(clip(name), tmp_path)


@pytest.mark.parametrize("image", [{}, {"image_size": 14}], ids=["whole", "rest"])
def test_siglip_agrees(image, tmp_path):
  agree(siglip(**image), tmp_path)


@pytest.mark.parametrize(
  "make", [lambda: clip("vit_b_16"), lambda: clip("vit_b_32"), siglip], ids=["eos", "2", "siglip"]
)
def test_saved_model_is_read_by_transformers(make, tmp_path):
  model = make()
  ours, params = agree(model, tmp_path / "theirs")
  pretrained.save_clip(tmp_path / "ours", ours, params)
  again, report = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
  assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
  images, ids = pictures(model), tokens()
  for before, after in zip(outputs(model, images, ids), outputs(again.eval(), images, ids)):
    logits_or_features = lambda out: getattr(out, "pooler_output", out)
    np.testing.assert_array_equal(logits_or_features(before), logits_or_features(after))


def test_a_published_model_at_its_size_agrees(tmp_path):
  from transformers import CLIPConfig, CLIPModel

  model = randomised(CLIPModel(CLIPConfig(text_config={"eos_token_id": 2})), 0.01)
  model.save_pretrained(tmp_path)
  ours, params = pretrained.load_clip(tmp_path)
  (tmp_path / "model.safetensors").unlink()  # 600 MB
  assert ours.text.clone(mlp_width=None) == PUBLISHED_CLIP["vit_b_32"]["text"]
  assert ours.image.clone(mlp_width=None) == PUBLISHED_CLIP["vit_b_32"]["image"]
  images, ids = pictures(model, 2), tokens(3, 77, 49407)
  for method, inputs, theirs in zip(("encode_image", "encode_text"), (images, ids), outputs(model, images, ids)):
    got = ours.apply(params, inputs, method=method)
    np.testing.assert_allclose(got.features, theirs.pooler_output, atol=BOUND)


def test_configurations_that_hold_a_part_twice(tmp_path):
  from transformers import CLIPConfig

  from diffjax.pretrained.clip import configs as clip_configs

  first = dict(hidden_size=32, eos_token_id=2, vocab_size=100)
  config = {"model_type": "clip", "text_config": first, "text_config_dict": dict(hidden_size=64, num_hidden_layers=3)}
  theirs = CLIPConfig(**json.loads(json.dumps(config))).text_config
  ours = clip_configs.clip(config, jnp.float32).text
  assert (ours.width, ours.layers, ours.vocab_size) == (64, 3, theirs.vocab_size) == (
    theirs.hidden_size, theirs.num_hidden_layers, 49408,
  )  # fmt: skip
  assert (ours.pooling, ours.eos_id) == ("eos", theirs.eos_token_id)


def equal_trees(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_shards_are_one_model(tmp_path):
  model = clip("vit_b_16")
  model.save_pretrained(tmp_path / "one")
  model.save_pretrained(tmp_path / "many", max_shard_size="20kB")
  assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
  equal_trees(pretrained.load_clip(tmp_path / "one")[1], pretrained.load_clip(tmp_path / "many")[1])


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_files(name, tmp_path):
  model = clip("vit_b_16").to(getattr(torch, name))
  model.save_pretrained(tmp_path)
  _, params = pretrained.load_clip(tmp_path)
  _, half = pretrained.load_clip(tmp_path, param_dtype=jnp.dtype(name))
  bias = params["params"]["text"]["norm_out"]["bias"]
  assert bias.dtype == jnp.float32
  np.testing.assert_array_equal(bias, model.text_model.final_layer_norm.bias.detach().float())
  assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype(name)}
  equal_trees(jax.tree.map(lambda a: a.astype(jnp.float32), half), params)


@pytest.mark.parametrize("prefixed", [True, False])
@pytest.mark.parametrize("projected", [True, False])
def test_text_tower_alone(projected, prefixed, tmp_path):
  from transformers import CLIPTextModel, CLIPTextModelWithProjection

  whole = clip("vit_b_32")
  whole.save_pretrained(tmp_path / "whole")
  config = whole.config.text_config
  config.projection_dim = 20
  alone = (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)
  kept = ("text_model.", "text_projection.") if projected else "text_model."
  bare = "" if projected else "text_model."
  state = {k.removeprefix(bare): v for k, v in whole.state_dict().items() if k.startswith(kept)}
  alone.load_state_dict(state)
  alone.save_pretrained(tmp_path / "alone")
  if prefixed and not projected:  # as files were before transformers 5
    save_file({"text_model." + k: v.numpy() for k, v in state.items()}, tmp_path / "alone" / "model.safetensors")
  tower, params = pretrained.load_text_encoder(tmp_path / "alone")
  _, from_whole = pretrained.load_text_encoder(tmp_path / "whole")
  got = tower.apply(params, tokens())
  with torch.no_grad():
    theirs = alone(torch.from_numpy(tokens()).long())
  np.testing.assert_allclose(got.last, theirs.last_hidden_state, atol=BOUND)
  features = theirs.text_embeds if projected else theirs.pooler_output
  np.testing.assert_allclose(got.features, features, atol=BOUND)
  if projected:
    equal_trees(params, from_whole)


def test_picture_tower_alone(tmp_path):
  from transformers import CLIPVisionModelWithProjection

  whole = clip("vit_b_16")
  config = whole.config.vision_config
  config.projection_dim = 20
  alone = CLIPVisionModelWithProjection(config)
  alone.load_state_dict({k: v for k, v in whole.state_dict().items() if k.startswith("vis")})
  alone.save_pretrained(tmp_path)
  tower, params = pretrained.load_image_encoder(tmp_path)
  with torch.no_grad():
    expected = alone(to_torch(pictures(whole))).image_embeds
  np.testing.assert_allclose(tower.apply(params, pictures(whole)).features, expected, atol=BOUND)


@pytest.mark.parametrize("name, custom_text", [("openclip_vit_h_14", False), ("vit_b_32", True)])
def test_open_clip_names(name, custom_text, tmp_path):
  model = clip(name)
  tensors = open_clip_tensors(model, "text." if custom_text else "")
  save_file(tensors, tmp_path / "open_clip_model.safetensors")
  config = {"model_cfg": open_clip_config(model) | {"custom_text": custom_text}, "preprocess_cfg": {}}
  (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
  ours, params = pretrained.load_clip(tmp_path)
  images, ids = pictures(model), tokens()
  image, text, logits = outputs(model, images, ids)
  close(ours, params, "encode_image", images, image)
  close(ours, params, "encode_text", ids, text)
  np.testing.assert_allclose(ours.apply(params, images, ids), logits, atol=BOUND)
  for load, inputs, expected in [
    (pretrained.load_text_encoder, ids, text),
    (pretrained.load_image_encoder, images, image),
  ]:
    tower, params = load(tmp_path)
    np.testing.assert_allclose(tower.apply(params, inputs).features, expected.pooler_output, atol=BOUND)


@pytest.mark.parametrize("name", PUBLISHED_CLIP)
def test_published_sizes_are_theirs(name):
  """The parameters of transformers' model of our configuration, on no device, are as many and of the same shapes."""
  import transformers

  from diffjax.pretrained.clip import configs as clip_configs
  from diffjax.pretrained.clip import keys as clip_keys

  model = CLIP(**PUBLISHED_CLIP[name])
  config = clip_configs.to_hugging_face(model)
  family = {"clip": "CLIP", "siglip": "Siglip"}[config["model_type"]]
  with torch.device("meta"):
    theirs = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**config))
  expected = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
  key_map = {"CLIP": clip_keys.HUGGING_FACE, "Siglip": clip_keys.SIGLIP}[family]
  images, ids = (model.image.image_size,) * 2, jax.ShapeDtypeStruct((1, 8), jnp.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *images, 3), jnp.float32), ids)
  flat = {"/".join(key.key for key in path[1:]): leaf for path, leaf in jax.tree.leaves_with_path(shapes)}
  ours = {}
  for path, leaf in flat.items():
    ours |= jax.eval_shape(lambda a, path=path: key_map.to_stored(path, a), leaf)
  assert {key: leaf.shape for key, leaf in ours.items()} == expected
  assert dataclasses.asdict(clip_configs.clip(config, jnp.float32)) == dataclasses.asdict(with_mlp_width(model))


def with_mlp_width(model):
  """The same model with its MLP widths written out, as configuration files have them."""
  towers = (tower.clone(mlp_width=tower.mlp_width or 4 * tower.width) for tower in (model.image, model.text))
  return CLIP(*towers, log_scale=model.log_scale, bias=model.bias)
