"""Digits prepared once, and a small made-up folder of pictures."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def digits_dir(tiny_data):
  return tiny_data


@pytest.fixture
def save(tmp_path):
  """save(path, grey) writes a 6x6 picture of one grey under tmp_path and returns tmp_path."""

  def save(path, grey=100):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 6, 3), grey, np.uint8)).save(tmp_path / path)
    return tmp_path

  return save
