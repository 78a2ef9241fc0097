"""Configs to JSON and back, and in what two of them differ."""

import dataclasses
import json
import pathlib
import sys

import jax
import pytest
from absl import flags
from ml_collections import config_flags

from diffjax import from_config, networks
from diffjax.from_config import configuration, kinds

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def test_config_survives_json(tiny):
  config = tiny()
  config.model.multipliers = (1, 2)
  back = configuration.from_json(config.to_json())
  assert not configuration.differences(config, back)
  assert from_config.module(back) == from_config.module(config)
  shapes = [jax.eval_shape(lambda c=c: from_config.initial_state(c)) for c in (config, back)]
  assert jax.tree.leaves(shapes[0]) == jax.tree.leaves(shapes[1])


@pytest.mark.parametrize("name", from_config.KINDS)
def test_every_kind_of_model_provides_everything(name):
  kind = from_config.KINDS[name]
  for member in (*vars(kinds.Kind)["__annotations__"], *vars(kinds.Kind)):
    assert member.startswith("_") or hasattr(kind, member), member
  assert kind.NOUN.startswith(("a ", "an "))
  config = kind.default_config()
  older = json.loads(config.to_json())
  for key in kind.NEW_KEYS:
    section, _, last = key.rpartition(".")
    del (older[section] if section else older)[last]
  assert not configuration.differences(config, configuration.from_json(json.dumps(older)))
  for network in kind.NETWORKS:
    assert kinds.kind_of({"model": {"name": network}}) == name


def test_differences_name_the_keys(tiny):
  one, two = tiny(), tiny(steps=9)
  two.ema.decays = (0.5, 0.6)
  two.model.head_dim = 4
  assert configuration.differences(one, two) == [
    "ema.decays: [0.9], [0.5, 0.6]",
    "model.head_dim: nothing, 4",
    "train.steps: 8, 9",
  ]


@pytest.mark.parametrize(
  ("change", "says"),
  [
    (lambda tree: tree["train"].pop("clip_norm"), r"it lacks train\.clip_norm"),
    (lambda tree: tree.pop("model"), "it lacks model"),
    (lambda tree: tree.update(model=3), "model is 3, not of type dict"),
    (lambda tree: tree["train"].update(steps="x"), r"train\.steps is 'x', not of type int"),
    (lambda tree: tree["train"].update(steps=True), r"train\.steps is True, not of type int"),
    (lambda tree: tree["train"].update(learning_rate=None), r"train\.learning_rate is None, not of type float"),
  ],
)
def test_text_that_is_no_config(tiny, change, says):
  tree = json.loads(tiny().to_json())
  configuration.from_json(json.dumps(tree))
  change(tree)
  with pytest.raises(ValueError, match=says):
    configuration.from_json(json.dumps(tree))
  for text in ("[1, 2]", "3", "null"):
    with pytest.raises(ValueError, match="not of type dict"):
      configuration.from_json(text)


@pytest.fixture
def parsed(monkeypatch):
  """configs/digits.py, or another, as the command line changes it."""

  def parse(*overrides, config="digits"):
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    arguments = [f"--config={CONFIGS / config}.py", *(f"--config.{override}" for override in overrides)]
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    values(sys.argv)
    return values.config

  return parse


def test_every_field_of_the_network_can_be_set(parsed):
  config = parsed("model.remat=True", "model.skip_scale=0.5", "model.perturbed_blocks=('middle_block_0',)")
  fields = {field.name for field in dataclasses.fields(networks.UNet)}
  assert fields - {"parent", "out_channels"} == set(config.model)  # the data says the channels
  net = from_config.module(config)
  assert (net.remat, net.skip_scale, net.norm_eps, net.width) == (True, 0.5, networks.UNet.norm_eps, 16)
  towers = parsed("model.text.pooling=last", "model.image.norm_eps=1e-6", config="clip_digits")
  assert from_config.clip.module(towers).image.norm_eps == 1e-6


def test_the_advice_on_memory_can_be_followed(parsed):
  config = parsed()
  advised = from_config.memory_settings(config)
  assert set(advised) == {"train.batch_size", "train.accumulate", "model.remat"}
  other = {"train.batch_size": 32, "train.accumulate": 2, "model.remat": True}
  assert from_config.memory_settings(parsed(*(f"{key}={value}" for key, value in other.items()))) == other


def test_a_network_without_remat_is_not_advised_to_set_it(parsed, monkeypatch):
  class Plain:
    def __init__(self, width, out_channels):
      pass

  config = parsed()
  monkeypatch.setitem(from_config.NETWORKS, "plain", Plain)
  config.model = {"name": "plain", "width": 16}
  assert set(from_config.memory_settings(config)) == {"train.batch_size", "train.accumulate"}


def test_a_clip_of_before_keeps_its_guidance(parsed):
  tree = json.loads(parsed(config="clip_digits").to_json())
  assert tree.pop("guidance")["distance"] == "softmax"
  assert configuration.from_json(json.dumps(tree)).guidance == configuration.default_guidance_config()


def test_what_is_not_set_is_no_difference(parsed):
  """Runs written before a network had a field, or a config a key for it, go on."""
  config = parsed()
  tree = json.loads(config.to_json())
  tree["model"] = {key: value for key, value in tree["model"].items() if value is not None}
  old = configuration.from_json(json.dumps(tree))
  assert not configuration.differences(old, config) and "remat" not in old.model
  assert from_config.module(old) == from_config.module(config)
