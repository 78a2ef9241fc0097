"""Configs to JSON and back, and in what two of them differ."""

import json

import jax
import pytest

from diffjax import from_config
from diffjax.from_config import configuration


def test_config_survives_json(tiny):
  config = tiny()
  config.model.multipliers = (1, 2)
  back = configuration.from_json(config.to_json())
  assert not configuration.differences(config, back)
  assert from_config.module(back) == from_config.module(config)
  shapes = [jax.eval_shape(lambda c=c: from_config.initial_state(c)) for c in (config, back)]
  assert jax.tree.leaves(shapes[0]) == jax.tree.leaves(shapes[1])


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
