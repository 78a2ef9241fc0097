"""Every example in a docstring gives what it says."""

import doctest
import importlib
import pathlib

import pytest

import diffjax

ROOT = pathlib.Path(diffjax.__file__).parent
MODULES = [
  ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
  for path in sorted(ROOT.rglob("*.py"))
  if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
  module = importlib.import_module(name)
  result = doctest.testmod(module)
  assert result.attempted and not result.failed
