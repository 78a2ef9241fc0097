"""Every page's Python runs as it stands: the blocks of a page in turn, with the names of those before."""

import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.slow

PAGES = sorted((pathlib.Path(__file__).parent.parent / "docs").glob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_blocks_run(page, tmp_path, monkeypatch):
  blocks = BLOCK.findall(page.read_text())
  if not blocks:
    pytest.skip("no Python on this page")
  monkeypatch.chdir(tmp_path)  # what they write
  names = {"__name__": page.stem}
  for number, block in enumerate(blocks, 1):
    exec(compile(block, f"{page.name}, block {number}", "exec"), names)
    for name in names.keys() & {"denoiser", "consistency_model"}:
      takes_a_level_for_each_sample(names[name])


def takes_a_level_for_each_sample(denoiser):
  """What `samplers.Adaptive` asks for: sigma [B] gives what each of its levels gives alone."""
  x, sigma, cond = jnp.linspace(-1, 1, 48).reshape(3, 4, 4, 1), jnp.array([0.1, 1.0, 10.0]), {"label": jnp.array([0])}
  alone = [denoiser(x[i : i + 1], sigma[i], cond) for i in range(3)]
  np.testing.assert_allclose(denoiser(x, sigma, {"label": jnp.zeros(3, int)}), jnp.concatenate(alone), rtol=1e-6)
