"""Textual inversion against diffusers on the same files."""

import numpy as np
import pytest
from safetensors.numpy import save_file

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from diffjax import DiffjaxWarning, pretrained  # noqa: E402

PROMPT = "a <cat-toy> three on <cat-toy>"
CLOSE = dict(rtol=1e-4, atol=1e-5)


def vectors(k, width, seed=0):
  return np.random.default_rng(seed).normal(size=(k, width)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 3])
def test_hidden_states_are_theirs(both, tmp_path, k):
  theirs, folder = both("1")
  save_file({"<cat-toy>": vectors(k, 32)}, tmp_path / "toy.safetensors")
  ours = pretrained.load_textual_inversion(pretrained.load_pipeline(folder), tmp_path / "toy.safetensors")
  theirs.load_textual_inversion(tmp_path, weight_name="toy.safetensors")
  expected, _ = theirs.encode_prompt(PROMPT, "cpu", 1, False)
  found = ours.conditioner.conds(1, (16, 16), prompt=PROMPT)[0]["context"]
  np.testing.assert_allclose(found, expected.numpy(), **CLOSE)
  theirs.unload_textual_inversion()
  plain, _ = theirs.encode_prompt("a three", "cpu", 1, False)
  np.testing.assert_allclose(
    ours.conditioner.conds(1, (16, 16), prompt="a three")[0]["context"], plain.numpy(), **CLOSE
  )


@pytest.mark.slow
def test_both_towers_of_xl_and_the_pooled_vector(both, tmp_path):
  _, folder = both("xl")
  save_file({"clip_l": vectors(2, 32), "clip_g": vectors(2, 48, 1)}, tmp_path / "toy.safetensors")
  before = pretrained.load_pipeline(folder)
  after = pretrained.load_textual_inversion(before, tmp_path / "toy.safetensors")
  made = after.conditioner.conds(1, (16, 16), prompt="a toy three")[0]
  assert np.abs(made["context"] - before.conditioner.conds(1, (16, 16), prompt="a toy three")[0]["context"]).max() > 0.1
  # the new ids are higher than end of text, from which the pooled vector is still read
  (tower,) = after.conditioner.towers[1:]
  tokens = tower.tokenizer(["a toy three"])
  place = list(tokens[0]).index(tower.tokenizer.end_id)
  encoded = tower.module.apply(tower.params, tokens)
  np.testing.assert_allclose(encoded.pooled[0], encoded.last[0, place], rtol=1e-5)
  np.testing.assert_allclose(made["pooled"], encoded.features, **CLOSE)


@pytest.mark.slow
def test_words_several_files_and_weights(both, tmp_path):
  ours = pretrained.load_pipeline(both("1")[1])
  save_file({"emb_params": vectors(2, 32)}, tmp_path / "style.safetensors")
  save_file({"<one>": vectors(1, 32, 1)[0]}, tmp_path / "one.safetensors")
  for file in ("style", "one"):
    ours = pretrained.load_textual_inversion(ours, tmp_path / f"{file}.safetensors")
  (tower,) = ours.conditioner.towers
  size = tower.module.vocab_size
  assert tower.params["params"]["tokens"].shape == (size, 32)
  assert tower.tokenizer.ids("style")[:2] == [size - 3, size - 2] and tower.tokenizer.ids("<one>") == [size - 1]
  weighed = ours.conditioner.conds(1, (16, 16), prompt="a (style:1.5)")[0]["context"]
  assert np.isfinite(weighed).all() and not np.allclose(
    weighed, ours.conditioner.conds(1, (16, 16), prompt="a style")[0]["context"]
  )
  with pytest.warns(DiffjaxWarning, match="text 0 has 18 tokens, but only 16 are used, and 'style ' is cut off"):
    tower.tokenizer(["style " * 8])
  with pytest.raises(ValueError, match=r"words of textual inversion \(style, <one>\) cannot be saved"):
    tower.tokenizer.save(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("tensors", "word", "message"),
  [
    (
      {"<a>": vectors(1, 48)},
      None,
      "embeddings of width 48, but the text encoders have 32; use one made for this model",
    ),
    ({"clip_l": vectors(1, 32), "clip_g": vectors(1, 48)}, None, "embeddings of width 32 and 48, but"),
    ({"<a>": vectors(1, 32), "<b>": vectors(1, 32)}, None, "holds <a>, <b>, which is no textual inversion"),
    ({"<a>": np.zeros((1, 32), np.int32)}, None, "which is no textual inversion"),
    ({"<a>": vectors(300, 32)}, None, "no vectors, or more than 256; use"),
    ({"<a>": vectors(1, 32)}, "a three", "the word a three of .* has spaces, brackets or colons; choose another"),
    ({"three</w>": vectors(1, 32)}, None, "the tokenizer knows 'three</w>' already; choose another word"),
  ],
)
def test_mistakes(both, tmp_path, tensors, word, message):
  save_file(tensors, tmp_path / "toy.safetensors")
  with pytest.raises(ValueError, match=message):
    pretrained.load_textual_inversion(pretrained.load_pipeline(both("1")[1]), tmp_path / "toy.safetensors", word)


@pytest.mark.slow
def test_pickles_and_missing_files(both, tmp_path):
  ours = pretrained.load_pipeline(both("1")[1])
  torch.save({"string_to_param": {"*": torch.zeros(1, 32)}}, tmp_path / "toy.pt")
  with pytest.raises(ValueError, match="pickle"):
    pretrained.load_textual_inversion(ours, tmp_path / "toy.pt")
  with pytest.raises(FileNotFoundError, match="there is no file"):
    pretrained.load_textual_inversion(ours, tmp_path / "none.safetensors")
