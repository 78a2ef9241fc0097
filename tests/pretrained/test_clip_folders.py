"""Folders of weights without transformers: the round trip, and what is refused."""

import json
import os
import pathlib
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffjax import pretrained
from diffjax.networks import CLIP

NAME, INDEX = "model.safetensors", "model.safetensors.index.json"


def test_round_trip(tiny_clip, folder):
  model, params = tiny_clip
  again, loaded = pretrained.load_clip(folder)
  jax.tree.map(np.testing.assert_array_equal, loaded, params)
  written_out = {"mlp_width": 32}
  assert again == CLIP(model.image.clone(**written_out), model.text.clone(**written_out))
  assert not list(folder.glob("*.partial"))


def test_dtypes_of_computation_and_of_parameters(folder):
  model, params = pretrained.load_clip(folder, dtype=jnp.bfloat16, param_dtype=jnp.float16)
  assert (model.image.dtype, model.text.dtype) == (jnp.bfloat16, jnp.bfloat16)
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float16")}


def change(folder, **changes):
  """Rewrites the tensors, with some replaced, added, or for None left out."""
  tensors = load_file(folder / NAME) | changes
  save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / NAME)


def refusal(folder, *words, load=pretrained.load_clip):
  """The one sentence of a ValueError, which holds these words."""
  with pytest.raises(ValueError) as error:
    load(folder)
  message = str(error.value)
  assert "\n" not in message and len(message) < 1000
  for word in words:
    assert word in message, message
  return message


def test_missing_surplus_and_misshapen_tensors_are_named_in_one_error(folder):
  surplus = {"text_model.extra.weight": np.zeros(3, np.float32)}
  shape = {"visual_projection.weight": np.zeros((6, 9), np.float32)}
  change(folder, logit_scale=None, **surplus, **shape)
  refusal(
    folder,
    "missing: logit_scale",
    "surplus: text_model.extra.weight",
    "visual_projection.weight (6, 9), expected (6, 8)",
  )


def test_quantised_tensors_are_refused(folder):
  change(folder, logit_scale=np.zeros((), np.int8))
  refusal(folder, "not of a floating type: logit_scale I8")


def test_constants_of_old_files_are_passed_over(tiny_clip, folder):
  change(folder, **{"text_model.embeddings.position_ids": np.arange(5)[None]})
  jax.tree.map(np.testing.assert_array_equal, pretrained.load_clip(folder)[1], tiny_clip[1])


def test_one_tower_of_both(tiny_clip, folder):
  for tower, load in dict(text=pretrained.load_text_encoder, image=pretrained.load_image_encoder).items():
    module, params = load(folder)
    jax.tree.map(np.testing.assert_array_equal, params["params"], tiny_clip[1]["params"][tower])
    assert module.features == 6


class Bomb:
  def __reduce__(self):
    return pathlib.Path.touch, (pathlib.Path(os.environ["BOMB"]),)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", NAME])
def test_pickles_are_refused_and_never_run(name, folder, tmp_path, monkeypatch):
  monkeypatch.setenv("BOMB", str(tmp_path / "ran"))
  (folder / NAME).unlink()
  (folder / name).write_bytes(pickle.dumps(Bomb()))
  refusal(folder, "not a valid safetensors file" if name == NAME else "pickle")
  if name != NAME:
    refusal(folder / name, "pickle")
  assert not (tmp_path / "ran").exists()
  pickle.loads((folder / name).read_bytes())
  assert (tmp_path / "ran").exists()  # so it would have been seen


@pytest.mark.parametrize("where", ["nowhere", "file", "empty"])
def test_wrong_folders(where, tmp_path):
  (tmp_path / "file").write_text("")
  (tmp_path / "empty").mkdir()
  refusal(tmp_path / where, {"nowhere": "does not exist", "file": "is a file", "empty": "holds no weights"}[where])


def test_damaged_files(folder):
  (folder / NAME).write_bytes((folder / NAME).read_bytes()[:-1])
  refusal(folder, str(folder / NAME), "not a valid safetensors file")


def test_a_pipe_does_not_hang(folder):
  (folder / NAME).unlink()
  os.mkfifo(folder / NAME)
  refusal(folder, "not a regular file")


def shard(folder, name="model-00001-of-00001.safetensors"):
  """Turns the model's file into a shard of that name, with an index."""
  path = pathlib.Path(os.path.normpath(folder / name.replace("\0", "")))
  (folder / NAME).rename(path)
  index = {"weight_map": dict.fromkeys(load_file(path), name)}
  (folder / INDEX).write_text(json.dumps(index))
  return path


def test_a_shard_within(tiny_clip, folder):
  shard(folder)
  jax.tree.map(np.testing.assert_array_equal, pretrained.load_clip(folder)[1], tiny_clip[1])


@pytest.mark.parametrize(
  "name", ["../m.safetensors", "{absolute}", "..\\m.safetensors", "C:m.safetensors", "m\0.safetensors"]
)
def test_shards_outside_are_refused(name, folder):
  """Each of these files is there and sound: only the rule keeps it out."""
  shard(folder, name.format(absolute=folder.parent / "m.safetensors"))
  refusal(folder, "use a plain file name")


def test_links_out_are_refused_but_in_a_cache(tiny_clip, folder):
  outside = folder.parent / "outside.safetensors"
  path = shard(folder)
  path.rename(outside)
  path.symlink_to(outside)
  refusal(folder, "outside the folder")
  cache = folder.parent / "models--someone--clip"
  (cache / "blobs").mkdir(parents=True)
  (cache / "snapshots").mkdir()
  snapshot = folder.rename(cache / "snapshots" / "0a1b")
  outside.rename(cache / "blobs" / "ffee")
  (snapshot / path.name).unlink()
  (snapshot / path.name).symlink_to("../../blobs/ffee")
  jax.tree.map(np.testing.assert_array_equal, pretrained.load_clip(snapshot)[1], tiny_clip[1])
  (cache / "blobs" / "ffee").rename(cache / "refs")
  (snapshot / path.name).unlink()
  (snapshot / path.name).symlink_to("../../refs")
  refusal(snapshot, "outside the folder")


def test_index_and_shards_that_disagree(folder):
  path = shard(folder)
  index = json.loads((folder / INDEX).read_text())
  index["weight_map"]["other"] = path.name
  (folder / INDEX).write_text(json.dumps(index))
  refusal(folder, "disagree on other")
  (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "model.bin"}}))
  refusal(folder, "only .safetensors")
  for wrong in ({"weight_map": {"a": 1}}, {"weight_map": []}, {}):
    (folder / INDEX).write_text(json.dumps(wrong))
    refusal(folder, "weight_map")
  (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
  with pytest.raises(FileNotFoundError, match=r"gone\.safetensors"):
    pretrained.load_clip(folder)


def configure(folder, tower=None, **changes):
  config = json.loads((folder / "config.json").read_text())
  (config if tower is None else config[tower]).update(changes)
  (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
  "tower, changes, words",
  [
    (None, {"model_type": "bert"}, "model_type bert"),
    (None, {"text_config": 3}, "text_config 3"),
    (None, {"projection_dim": None}, "projection_dim None"),
    ("text_config", {"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000"),
    ("text_config", {"num_hidden_layers": "2"}, "num_hidden_layers 2"),
    ("text_config", {"hidden_size": 0}, "hidden_size 0"),
    ("text_config", {"hidden_size": True}, "hidden_size True"),
    ("text_config", {"num_attention_heads": 3}, "3 heads"),
    ("text_config", {"eos_token_id": [1]}, "eos_token_id"),
    ("text_config", {"eos_token_id": 10**30}, "eos_token_id"),
    ("text_config", {"eos_token_id": -5}, "eos_token_id"),
    (None, {"model_type": ["clip"]}, "model_type ['clip']"),
    (None, {"model_type": "\n" * 10**5}, "model_type '\\n"),
    ("text_config", {"hidden_act": ["gelu"]}, "hidden_act ['gelu']"),
    ("text_config", {"hidden_act": "swish"}, "hidden_act swish"),
    ("vision_config", {"layer_norm_eps": -1.0}, "layer_norm_eps"),
    ("vision_config", {"patch_size": 5}, "patches of 5"),
    ("vision_config", {"image_size": [4, 5]}, "image_size"),
  ],
)
def test_hostile_configurations(tower, changes, words, folder):
  configure(folder, tower, **changes)
  refusal(folder, words)


@pytest.mark.parametrize("name", ["config.json", INDEX])
def test_json_elsewhere(name, folder):
  shard(folder)
  pretrained.load_clip(folder)
  (folder / name).rename(folder.parent / "outside.json")
  (folder / name).symlink_to("../outside.json")
  refusal(folder, "outside.json, outside the folder")
  (folder / name).unlink()
  os.mkfifo(folder / name)
  refusal(folder, "not a regular file")


def test_an_index_with_a_name_twice(folder):
  path = shard(folder)
  text = (folder / INDEX).read_text()
  (folder / INDEX).write_text(text.replace('"logit_scale"', f'"logit_scale": "{path.name}", "logit_scale"'))
  refusal(folder, "the key logit_scale is duplicated")


@pytest.mark.parametrize(
  "text", ["", "[]", "{", "[" * 100_000, "\xff", '{"a": 1, "a": 1}', '{"a": NaN}', '{"a": ' + "[" * 40 + "]" * 40 + "}"]
)
def test_config_that_is_no_json_object(text, folder):
  (folder / "config.json").write_bytes(text.encode("latin-1"))
  refusal(folder, "config.json")


def test_a_config_of_gigabytes_is_not_read(folder):
  with (folder / "config.json").open("ab") as config:
    config.truncate(2**33)  # a hole, not written
  refusal(folder, "is too large")


def test_a_tower_alone_is_not_a_clip(folder):
  configure(folder, model_type="clip_text_model")
  refusal(folder, "load_text_encoder")


def test_open_clip_configuration_of_another_network(folder):
  (folder / NAME).rename(folder / "open_clip_model.safetensors")
  model = {"embed_dim": 6, "vision_cfg": {"timm_model_name": "resnet50"}, "text_cfg": {}}
  (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))
  refusal(folder, "timm_model_name in vision_cfg")
  model["vision_cfg"] = {"layers": [3, 4, 6, 3]}
  (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))
  refusal(folder, "layers [3, 4, 6, 3]")


def test_a_mixture_of_clip_and_siglip_is_not_saved(tiny_clip, tmp_path):
  model, params = tiny_clip
  mixed = CLIP(model.image, model.text.clone(pooling="last"))
  with pytest.raises(ValueError, match="mixes"):
    pretrained.save_clip(tmp_path / "mixed", mixed, params)
  assert not (tmp_path / "mixed").exists()


@pytest.mark.parametrize("name", ["a\nb\x1b[31m", "n" * 10**6])
def test_names_of_tensors_are_printed_safely(name, folder):
  change(folder, **{name: np.zeros(3, np.float32)})
  message = refusal(folder, "surplus")
  assert message.isprintable()


def test_weights_that_are_not_finite_are_refused(folder):
  change(folder, logit_scale=np.full((), np.nan, np.float32))
  refusal(folder, "logit_scale", "not all finite")
