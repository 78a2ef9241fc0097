"""Texts as conditions: which hidden states, what the null cond is, and what training drops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import randomness
from diffjax.conditioning import Text, TextTower
from diffjax.data import train_tokenizer
from diffjax.networks import TextEncoder

pytestmark = pytest.mark.slow

TEXTS = ["a red three on white", "a blue seven on black", "a green one"]
SIZE = (32, 48)


def tower(width, seed=0, **fields):
  tokenizer = train_tokenizer(TEXTS, 560, length=12)
  module = TextEncoder(vocab_size=tokenizer.vocab_size, width=width, layers=2, heads=2, context=12, features=5)
  params = module.init(jax.random.key(seed), jnp.zeros((1, 12), jnp.int32))
  return TextTower(params, module, tokenizer, **fields)


@pytest.fixture(scope="module")
def small():
  return Text((tower(8),), dropout=0.3)


@pytest.fixture(scope="module")
def large():
  towers = tower(8, layer=-2, normed=False), tower(6, 1, layer=-2, normed=False)
  return Text(towers, pooled=True, zero_null=True)


def test_one_prompt_for_all_or_one_for_each(small):
  each = cond(small, 3, SIZE, prompt=TEXTS)["context"]
  assert each.shape == (3, 12, 8)
  for i, text in enumerate(TEXTS):
    np.testing.assert_array_equal(cond(small, 2, SIZE, prompt=text)["context"], np.stack([each[i]] * 2))
  repeated = cond(small, 3, SIZE, prompt=[TEXTS[2], TEXTS[0], TEXTS[2]])["context"]
  np.testing.assert_allclose(repeated, each[[2, 0, 2]], atol=1e-6)


def test_the_states_are_the_towers_last(small):
  (own,) = small.towers
  encoded = own.module.apply(own.params, own.tokenizer(TEXTS))
  np.testing.assert_allclose(cond(small, 3, SIZE, prompt=TEXTS)["context"], encoded.last, atol=1e-6)


def test_two_towers_pooled_vector_and_sizes(large):
  made = cond(large, 2, SIZE, prompt=TEXTS[:2])
  first, second = (own.module.apply(own.params, own.tokenizer(TEXTS[:2])) for own in large.towers)
  np.testing.assert_allclose(made["context"], np.concatenate([first.hidden[-2], second.hidden[-2]], -1), atol=1e-6)
  np.testing.assert_allclose(made["pooled"], second.features, atol=1e-6)
  np.testing.assert_array_equal(made["sizes"], [[32, 48, 0, 0, 32, 48]] * 2)


def cond(conditioner, num, size, **asked):
  return conditioner.conds(num, size, **asked)[0]


def null_cond(conditioner, **asked):
  return conditioner.conds(1, SIZE, prompt=TEXTS[0], **asked)[1]


def test_null_cond(small, large):
  empty = null_cond(small)["context"]
  assert empty.shape == (12, 8) and np.abs(empty).max() > 0
  np.testing.assert_allclose(
    null_cond(small, negative_prompt=TEXTS[0])["context"], cond(small, 1, SIZE, prompt=TEXTS[0])["context"][0]
  )
  null = null_cond(large)
  assert not null["context"].any() and not null["pooled"].any() and null["sizes"].tolist() == [32, 48, 0, 0, 32, 48]
  assert null_cond(large, negative_prompt="")["context"].any()  # asked for, so it is encoded


def test_clip_skip_leaves_out_layers(small):
  (own,) = small.towers
  encoded = own.module.apply(own.params, own.tokenizer(TEXTS[:1]))
  skipped = cond(small, 1, SIZE, prompt=TEXTS[0], clip_skip=1)["context"]
  states = encoded.hidden[-2]
  states = (states - states.mean(-1, keepdims=True)) / jnp.sqrt(states.var(-1, keepdims=True) + own.module.norm_eps)
  np.testing.assert_allclose(skipped, states, atol=1e-5)  # a new norm has scale 1 and bias 0
  with pytest.raises(ValueError, match=r"clip_skip is 2, but must be in 0\.\.1"):
    cond(small, 1, SIZE, prompt=TEXTS[0], clip_skip=2)


def test_each_text_is_dropped_by_its_own_key(small):
  (own,) = small.towers
  tokens = own.tokenizer(TEXTS * 200)
  keys = randomness.sample_keys(jnp.array([0, 0], jnp.uint32), len(tokens))
  context = small.training_cond({"tokens": tokens}, keys)["context"]
  empty = null_cond(small)["context"]
  dropped = np.abs(context - empty[None]).max((1, 2)) < 1e-5
  assert 0.25 < dropped.mean() < 0.35
  whole = cond(small, len(tokens), SIZE, prompt=TEXTS * 200)["context"]
  np.testing.assert_allclose(context[~dropped], whole[~dropped], atol=1e-5)
  part = small.training_cond({"tokens": tokens[10:20]}, keys[10:20])["context"]
  np.testing.assert_allclose(part, context[10:20], atol=1e-5)


def test_training_with_two_towers_is_refused(large):
  with pytest.raises(ValueError, match="reads the hidden states of one text encoder"):
    large.training_cond({"tokens": np.zeros((1, 12), np.int32)}, None)
