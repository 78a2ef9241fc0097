"""Every test file that exists is run: pytest leaves out folders of some names, such as build or dist, silently."""

import pathlib


def test_every_test_file_is_collected(collected):
  there = set(pathlib.Path(__file__).parent.rglob("test_*.py"))
  assert not there - collected
