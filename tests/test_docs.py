"""Every page's Python runs as it stands: the blocks of a page in turn, with the names of those before."""

import pathlib
import re

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
