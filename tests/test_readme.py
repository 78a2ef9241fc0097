"""README's Python runs as it stands."""

import pathlib
import re

import numpy as np

README = pathlib.Path(__file__).parent.parent / "README.md"


def test_python_example_draws_from_a_standard_normal():
  (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
  names = {}
  exec(block, names)
  sigmas, key = names["sigmas"], names["jax"].random.key(1)
  adaptive = names["sample"](names["guided"], names["diffjax"].samplers.Adaptive(), names["x"], sigmas, key=key)
  assert adaptive.shape == (16, 8, 8, 1) and np.isfinite(adaptive).all()  # it calls with a sigma for each sample
  drawn = np.asarray(names["x0"])
  assert drawn.shape == (16, 8, 8, 1)
  assert abs(drawn.mean()) < 0.15
