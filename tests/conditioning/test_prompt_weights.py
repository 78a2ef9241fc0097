"""Weights in prompts and long prompts: the examples that the two programs' own sources and pages give."""

import numpy as np
import pytest

from diffjax.conditioning.prompt_weights import parse_a1111, parse_comfy, sections, weighed
from diffjax.data import train_tokenizer


@pytest.mark.parametrize(
  ("prompt", "parts"),
  [  # modules/prompt_parser.py of AUTOMATIC1111/stable-diffusion-webui, in its docstring
    ("normal text", [("normal text", 1.0)]),
    ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
    ("(unbalanced", [("unbalanced", 1.1)]),
    (r"\(literal\]", [("(literal]", 1.0)]),
    ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
    (
      "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
      [
        ("a ", 1.0), ("house", 1.573), (" ", 1.1), ("on", 1.0), (" a ", 1.1), ("hill", 0.55), (", sun, ", 1.1),
        ("sky", 1.4641), (".", 1.1),
      ],
    ),
    ("a BREAK b", [("a", 1.0), (None, 1.0), ("b", 1.0)]),
    ("time 10:30)", [("time 10:30)", 1.0)]),
    ("", []),
  ],
)  # fmt: skip
def test_a1111(prompt, parts):
  found = parse_a1111(prompt)
  assert [part.text for part in found] == [text for text, _ in parts]
  np.testing.assert_allclose([part.weight for part in found], [weight for _, weight in parts], rtol=1e-9)


@pytest.mark.parametrize(
  ("prompt", "parts"),
  [
    ("masterpiece (best:1.5) (((girl)))", [("masterpiece ", 1.0), ("best", 1.5), (" ", 1.0), ("girl", 1.331)]),
    ("((a:1.2) b:1.5)", [("a", 1.2), (" b", 1.5)]),  # absolute, whatever is around it
    ("((a) b:1.5)", [("a", 1.65), (" b", 1.5)]),
    (r"a \(b\) [c]", [("a (b) [c]", 1.0)]),
    ("(a)(b)", [("a", 1.1), ("b", 1.1)]),
    ("(a:x)", [("a:x", 1.1)]),
    ("a (b", [("a ", 1.0), ("(b", 1.0)]),
  ],
)
def test_comfy(prompt, parts):
  found = parse_comfy(prompt)
  assert [part.text for part in found] == [text for text, _ in parts]
  np.testing.assert_allclose([part.weight for part in found], [weight for _, weight in parts], rtol=1e-9)


@pytest.fixture(scope="module")
def tokenizer():
  """Each word is one token; sections have room for 30."""
  words = [f"w{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
  made = train_tokenizer([" ".join(words * 3)], 700, length=32)
  assert all(len(made.ids(word)) == 1 for word in words)
  return made


def test_a_short_prompt_is_as_the_tokenizer_has_it(tokenizer):
  for syntax in ("a1111", "comfy", "plain"):
    made = sections("wa wb wc", syntax, tokenizer)
    np.testing.assert_array_equal(made.tokens, tokenizer(["wa wb wc"]))
    assert (made.weights == 1).all()


def test_a_long_prompt_ends_its_section_after_a_comma(tokenizer):
  comma = tokenizer.ids(",")[0]
  early = sections("wa, " + "wb " * 40, "a1111", tokenizer)  # further back than 20 tokens
  assert early.tokens.shape == (2, 32) and (early.tokens[0] == tokenizer.ids("wb")[0]).sum() == 28
  late = sections("wb " * 20 + "wa, " + "wc " * 20, "a1111", tokenizer)
  assert late.tokens[0, 22] == comma and late.tokens[0, 23] == tokenizer.end_id  # the words after it moved on
  assert (late.tokens[1] == tokenizer.ids("wc")[0]).sum() == 20
  broken = sections("wa BREAK wb", "a1111", tokenizer)
  np.testing.assert_array_equal(broken.tokens, tokenizer(["wa", "wb"]))


def test_comfy_keeps_short_groups_together(tokenizer):
  words = lambda word, count: " ".join([word] * count)
  short = sections(words("wa", 27) + f" ({words('wb', 5)}:1.3)", "comfy", tokenizer)
  np.testing.assert_array_equal(short.tokens, tokenizer([words("wa", 27), words("wb", 5)]))
  np.testing.assert_allclose(short.weights[1], [1] + [1.3] * 5 + [1] * 26, rtol=1e-6)
  long = sections(words("wa", 27) + f" ({words('wb', 9)}:1.3)", "comfy", tokenizer)
  np.testing.assert_array_equal(long.tokens, tokenizer([words("wa", 27) + " " + words("wb", 3), words("wb", 6)]))


def test_a_group_longer_than_a_section_is_split(tokenizer):
  for syntax in ("a1111", "comfy"):
    made = sections("wa " * 70, syntax, tokenizer)
    assert (made.tokens == tokenizer.ids("wa")[0]).sum(1).tolist() == [30, 30, 10]


def test_weights_act_on_states():
  rng = np.random.default_rng(0)
  states, empty = rng.normal(0.2, 1, (2, 5, 3)).astype(np.float32), rng.normal(size=(5, 3)).astype(np.float32)
  weights = np.ones((2, 5), np.float32)
  assert weighed(states, weights, empty, "a1111") is states
  weights[0, 2] = 1.5
  comfy = weighed(states, weights, empty, "comfy")
  np.testing.assert_allclose(comfy[0, 2], empty[2] + 1.5 * (states[0, 2] - empty[2]), rtol=1e-5)
  np.testing.assert_array_equal(np.delete(comfy[0], 2, 0), np.delete(states[0], 2, 0))
  a1111 = weighed(states, weights, empty, "a1111")
  np.testing.assert_allclose(a1111.mean((1, 2)), states.mean((1, 2)), rtol=1e-4)
  np.testing.assert_allclose(a1111[0, 2] / states[0, 2], 1.5 * a1111[0, 0] / states[0, 0], rtol=1e-5)
  np.testing.assert_array_equal(a1111[1], states[1])


def test_an_unknown_syntax(tokenizer):
  with pytest.raises(ValueError, match="no prompt syntax 'compel'; choose one of a1111, comfy, plain"):
    sections("wa", "compel", tokenizer)
