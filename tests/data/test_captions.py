"""Captions from templates."""

import pytest

from diffjax.data import captions

NAMES = {"word": ("zero", "one"), "figure": ("0", "1")}


def test_every_class_in_every_template():
  made = captions(["a handwritten {word}", "{figure}, or {word}"], NAMES)
  assert made == [["a handwritten zero", "a handwritten one"], ["0, or zero", "1, or one"]]


@pytest.mark.parametrize(
  ("templates", "names", "says"),
  [
    ([], NAMES, "need templates"),
    (["{word}"], {}, "one name per class"),
    (["{word}"], {"word": ("zero",), "figure": ("0", "1")}, "one name per class"),
    (["{word}"], {"word": ()}, "one name per class"),
    (["a {digit}"], NAMES, r"'a \{digit\}' has an unknown field; use \{word\} or \{figure\}"),
    (["a {}"], NAMES, "unknown field"),
    (["a {word"], NAMES, "unknown field"),
    (["a digit"], NAMES, "does not name the class"),
  ],
)
def test_templates_that_do_not_fit(templates, names, says):
  with pytest.raises(ValueError, match=says):
    captions(templates, names)
