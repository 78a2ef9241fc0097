"""The tokenizer without transformers: encoding, refusals and training."""

import json
import os
import warnings

import numpy as np
import pytest
from captions import CAPTIONS, LONG, ODD
from mutations import Bounded, damage, endure

from diffjax import DiffjaxWarning, data


@pytest.fixture(scope="module")
def tokenizer():
  return data.train_tokenizer(CAPTIONS, 560)


def test_rows_are_start_words_end_and_padding(tokenizer):
  short = tokenizer._replace(length=6)
  rows = short(["a picture", ""])
  assert rows.dtype == np.int32 and rows.shape == (2, 6)
  start, end = tokenizer.vocab_size - 2, tokenizer.vocab_size - 1
  words = [tokenizer.bpe.token_to_id(word) for word in ("a</w>", "picture</w>")]
  np.testing.assert_array_equal(rows, [[start, *words, end, end, end], [start, end, end, end, end, end]])


@pytest.mark.parametrize("name", ODD)
def test_no_text_is_beyond_it(name, tokenizer):
  """Every byte has a token: nothing falls back to the unknown one, which is end of text."""
  (row,) = tokenizer([ODD[name]])
  inner = row[1 : list(row).index(tokenizer.end_id)]
  assert row[0] == tokenizer.vocab_size - 2 and (inner < tokenizer.vocab_size - 2).all()
  assert (len(inner) == 0) == (not ODD[name].strip())


def test_a_lone_surrogate_is_a_question_mark(tokenizer):
  np.testing.assert_array_equal(tokenizer(["a \ud800"]), tokenizer(["a ?"]))


@pytest.mark.parametrize("name", LONG)
def test_truncation_is_warned_about(name, tokenizer):
  with pytest.warns(DiffjaxWarning, match=r"1 has \d+ tokens, but only 77 are used, and .+ is cut off; shorten it\.$"):
    rows = tokenizer(["a", LONG[name]])
  assert rows[1, -1] == tokenizer.end_id and (rows[1, 1:-1] < tokenizer.vocab_size - 2).all()


def test_the_longest_text_that_fits_is_not_warned_about(tokenizer):
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    row = tokenizer(["a " * 75])[0]
  assert row[-1] == tokenizer.end_id and (row[1:-1] == row[1]).all()
  with pytest.warns(DiffjaxWarning, match="'b'"):
    tokenizer(["a " * 75 + "b"])


@pytest.mark.parametrize("empty", ["", " \n", "<|endoftext|> three"])
def test_an_empty_prompt_is_refused(empty, tokenizer):
  with pytest.raises(ValueError, match="prompt 1 is empty"):
    tokenizer.prompts(["a", empty])
  np.testing.assert_array_equal(tokenizer.prompts(["a", "b"]), tokenizer(["a", "b"]))


@pytest.mark.parametrize("texts", ["a string", [b"bytes"], [None]])
def test_only_lists_of_strings(texts, tokenizer):
  with pytest.raises(TypeError, match="list of strings"):
    tokenizer(texts)


def test_training_gives_clips_order_and_is_repeatable(tokenizer):
  vocab = tokenizer.bpe.get_vocab()
  assert tokenizer.vocab_size == 560 and sorted(vocab.values()) == list(range(560))
  assert vocab["<|startoftext|>"] == 558 and vocab["<|endoftext|>"] == 559 and vocab["picture</w>"] < 558
  assert sum(len(token.removesuffix("</w>")) == 1 for token in vocab) == 512
  assert data.train_tokenizer(iter(CAPTIONS), 560).bpe.to_str() == tokenizer.bpe.to_str()


def test_training_stops_where_there_is_nothing_to_merge():
  assert data.train_tokenizer(["ab"], 1000).vocab_size == 515
  assert data.train_tokenizer([], 514)(["ab"])[0, :4].tolist() == [
    512, *(data.train_tokenizer([], 514).bpe.token_to_id(token) for token in ("a", "b</w>")), 513,
  ]  # fmt: skip


def test_too_small_a_vocabulary_or_row():
  with pytest.raises(ValueError, match="514"):
    data.train_tokenizer(CAPTIONS, 513)
  with pytest.raises(ValueError, match="at least 3"):
    data.train_tokenizer(CAPTIONS, 600, length=2)


def write_pair(tokenizer, folder):
  """vocab.json and merges.txt as CLIP was published with."""
  model = json.loads(tokenizer.bpe.to_str())["model"]
  merges = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""]
  (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
  (folder / "merges.txt").write_text("\n".join(merges), encoding="utf-8")


def test_saved_and_published_files_are_the_same_tokenizer(tokenizer, tmp_path):
  tokenizer._replace(length=20).save(tmp_path / "saved")
  (tmp_path / "pair").mkdir()
  write_pair(tokenizer, tmp_path / "pair")
  texts = [text for text in ODD.values()]
  for folder, length in (("saved", 20), ("pair", 77)):
    loaded = data.load_tokenizer(tmp_path / folder)
    assert (loaded.length, loaded.pad_id, loaded.vocab_size) == (length, tokenizer.end_id, 560)
    longer = loaded._replace(length=200)
    np.testing.assert_array_equal(longer(texts), tokenizer._replace(length=200)(texts))


def test_what_it_pads_with(tokenizer, tmp_path):
  tokenizer.save(tmp_path)
  config = json.loads((tmp_path / "tokenizer_config.json").read_text())
  for pad, expected in [("!", "!"), ({"content": "#"}, "#"), (None, "<|endoftext|>")]:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": pad}))
    assert data.load_tokenizer(tmp_path, length=9).pad_id == tokenizer.bpe.token_to_id(expected)
  (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "no such", "model_max_length": 10**30}))
  with pytest.raises(ValueError, match="'no such'"):
    data.load_tokenizer(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[]", "\0", "[" * 100_000, '{"model": {}}'])
def test_damaged_files(text, tokenizer, tmp_path):
  with pytest.raises(ValueError, match="holds no tokenizer"):
    data.load_tokenizer(tmp_path)
  write_pair(tokenizer, tmp_path)
  (tmp_path / "vocab.json").write_text(text)
  with pytest.raises(ValueError, match=r"vocab\.json"):
    data.load_tokenizer(tmp_path)
  (tmp_path / "tokenizer.json").write_text(text)
  with pytest.raises(ValueError, match=r"tokenizer\.json"):
    data.load_tokenizer(tmp_path)


@pytest.mark.parametrize("merges", ["a", "a b c", "a 🙂", "a b"])
def test_merges_that_do_not_fit(merges, tokenizer, tmp_path):
  write_pair(tokenizer, tmp_path)
  (tmp_path / "merges.txt").write_text(merges)
  with pytest.raises(ValueError, match="not a byte-pair vocabulary"):
    data.load_tokenizer(tmp_path)


def test_tokenizers_of_other_models(tokenizer, tmp_path):
  whole = json.loads(tokenizer.bpe.to_str())
  (tmp_path / "tokenizer.json").write_text(json.dumps(whole | {"post_processor": None}))
  with pytest.raises(ValueError, match="around a text"):
    data.load_tokenizer(tmp_path)
  (tmp_path / "tokenizer.json").write_text(json.dumps(whole).replace("<|startoftext|>", "<s>"))
  with pytest.raises(ValueError, match="use CLIP's"):
    data.load_tokenizer(tmp_path)


SLOW = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Removed", "invert": False}
LARGE = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}


@pytest.mark.parametrize(
  "changes",
  [
    {"normalizer": LARGE},
    {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, *[LARGE] * 9]}},
    {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [LARGE]}]}},
    {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
    {"pre_tokenizer": SLOW},
    {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [SLOW], "normalizers": []}},
    {"pre_tokenizer": {"pattern": {"Regex": "(a+)+$"}, "behavior": "Removed", "invert": False}},
    {"pre_tokenizer": ["(a+)+$"]},
  ],
)
def test_patterns_and_replacements_of_others_are_refused(changes, tokenizer, tmp_path):
  """On a one-line prompt they could take forever, or fill the memory."""
  (tmp_path / "tokenizer.json").write_text(json.dumps(json.loads(tokenizer.bpe.to_str()) | changes))
  with pytest.raises(ValueError, match=r"tokenizer\.json has a (normalizer|pre_tokenizer) .*; use CLIP's"):
    data.load_tokenizer(tmp_path)


@pytest.mark.parametrize("number", [2**20 + 1, 2**31, 2**32 - 1, 2**32, 2**64, -1, 1.5, "1", None, []])
@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json"])
def test_ids_that_are_none(name, number, tokenizer, tmp_path):
  write_pair(tokenizer, tmp_path)
  whole = json.loads(tokenizer.bpe.to_str())
  (whole["model"]["vocab"] if name == "tokenizer.json" else whole)["new"] = number
  if name == "vocab.json":
    whole = whole["model"]["vocab"] | {"new": number}
  (tmp_path / name).write_text(json.dumps(whole))
  with pytest.raises(ValueError, match=r"tokenizer\.json|vocab\.json|ids above"):
    data.load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"])
def test_files_that_are_huge_or_elsewhere(name, tokenizer, tmp_path):
  folder = tmp_path / "folder"
  tokenizer.save(folder)
  write_pair(tokenizer, folder)
  if name in ("vocab.json", "merges.txt"):
    (folder / "tokenizer.json").unlink()
  data.load_tokenizer(folder)
  (folder / name).rename(tmp_path / "outside")
  (folder / name).symlink_to("../outside")
  with pytest.raises(ValueError, match=r"outside, outside the folder"):
    data.load_tokenizer(folder)
  (folder / name).unlink()
  os.mkfifo(folder / name)
  with Bounded(), pytest.raises(ValueError, match="not a regular file"):
    data.load_tokenizer(folder)
  (folder / name).unlink()
  with (folder / name).open("wb") as huge:
    huge.truncate(2**33)  # a hole, not written
  with Bounded(), pytest.raises(ValueError, match="is too large"):
    data.load_tokenizer(folder)


@pytest.mark.parametrize("trials", [300, pytest.param(20_000, marks=pytest.mark.soak)])
def test_mutations(trials, tokenizer, tmp_path):
  small = data.train_tokenizer(["a b"], 514)
  small.save(tmp_path)
  whole = (tmp_path / "tokenizer.json").read_bytes()

  def attempt(rng):
    (tmp_path / "tokenizer.json").write_bytes(damage(rng, whole))
    try:
      tokens = data.load_tokenizer(tmp_path)(["a b"])
    except ValueError as error:
      assert str(error).isprintable() and len(str(error)) < 1000
      return "refused"
    assert tokens.dtype == np.int32 and tokens.min() >= 0
    return "read"

  outcomes = endure("mutations of tokenizer.json", trials, attempt)
  assert min(outcomes["refused"], outcomes["read"]) > trials / 50
