"""Labels as conditions, and what is said of labels that do not fit."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import conditioning, randomness
from diffjax.conditioning import Labels, Text, Unconditional


def test_every_conditioner_has_the_whole_protocol():
  found = [value for value in vars(conditioning).values() if hasattr(value, "training_cond")]
  assert {Labels, Text, Unconditional} == set(found)
  for conditioner in found:
    assert list(inspect.signature(conditioner.conds).parameters)[:2] == ["self", "num"]


def test_labels_become_cond():
  labels = Labels(num_classes=10)
  np.testing.assert_array_equal(labels.conds(2, labels=np.array([3, 9]))[0]["label"], [3, 9])
  assert labels.conds(2) == (None, {"label": 10}) and Labels(num_classes=10, null_label=False).conds(2) == (None, None)
  assert Unconditional().conds(2) == (None, None)
  for given, says in (
    ([3], "one label for each of the 2"),
    ([3, 10], r"3\.\.10 are out of range"),
    ([-1, 3], r"-1\.\.3"),
  ):
    with pytest.raises(ValueError, match=says):
      labels.conds(2, labels=np.array(given))


def test_each_label_is_dropped_by_its_own_key():
  batch = {"label": jnp.arange(1000) % 10}
  keys = randomness.sample_keys(jnp.array([0, 0], jnp.uint32), 1000)
  whole = Labels(0.3, num_classes=10).training_cond(batch, keys)["label"]
  part = Labels(0.3, num_classes=10).training_cond({"label": batch["label"][10:20]}, keys[10:20])["label"]
  np.testing.assert_array_equal(whole[10:20], part)
  assert 0.25 < np.mean(whole == 10) < 0.35
  np.testing.assert_array_equal(whole[whole != 10], batch["label"][whole != 10])
