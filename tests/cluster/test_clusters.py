"""docs/clusters.md: its shell snippets parse, and the flags and files named on every page exist."""

import functools
import pathlib
import re
import runpy
import subprocess

import pytest

from diffjax.from_config import configuration

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clusters.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
OURS = re.compile(r"(train\.py|sample\.py|-m diffjax\.\w+)((?:\\\n|[^\n;'\"`&|])*)")
"""One of our scripts and its arguments, up to the end of a line, command or quotation."""


PAGES = {path.name: path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}


def defined(script):
  """The names of a script's flags, including those for several processes."""
  file = script.removeprefix("-m ").replace(".", "/") if script.startswith("-m") else script
  path = next(p for p in (ROOT / file, ROOT / f"{file}.py", ROOT / file / "__main__.py") if p.is_file())
  text = path.read_text()
  if path.suffix == ".py" and ("run_script" in text or "define_processes" in text):
    text += (ROOT / "diffjax" / "cluster" / "command_line.py").read_text()
  return set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', text)) | {"help"}


def named(text):
  """[(script, names of the flags that it is given)] in a text, including the config file."""
  found = []
  for script, arguments in OURS.findall(text):
    file = re.search(r"--config=(\S+?\.py)", arguments)
    found.append((script, re.findall(r"--([\w.]+)", arguments), file and file[1]))
  return found


@functools.cache
def keys(file=None):
  config = runpy.run_path(str(ROOT / file))["get_config"]() if file else configuration.default_config()
  return {f"config.{key}" for key in configuration.flat(config.to_dict())}


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_shell_is_shell(number):
  done = subprocess.run(["bash", "-n"], input=BLOCKS[number], capture_output=True, text=True, check=False)
  assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("page", PAGES)
def test_flags_of_ours_exist(page):
  for script, flags, file in named(PAGES[page]):
    plain = {flag for flag in flags if not flag.startswith("config.")}
    assert plain <= defined(script), (script, plain - defined(script))
    known = keys(file) if file and (ROOT / file).is_file() else None
    others = {flag for flag in flags if flag.startswith("config.")}
    assert known is None or others <= known | {"config.model.remat"}, (script, others - known)


def test_prose_names_keys_that_exist():
  in_prose = [flag for flag in re.findall(r"`--(config\.[\w.]+)", PAGE)]
  assert in_prose and set(in_prose) <= keys()


def test_files_of_ours_exist():
  files = [file for block in BLOCKS for file in re.findall(r"--config=(\S+\.py)", block)]
  assert len(files) > 5 and all((ROOT / file).is_file() for file in files)


def test_unknown_flags_and_bad_shell_would_show():
  text = "python train.py --config=a.py \\\n  --wrokdir=b 'x' --other"
  assert named(text) == [("train.py", ["config", "wrokdir"], "a.py")]
  assert "wrokdir" not in defined("train.py") and "coordinator_port" not in defined("sample.py")
  assert {"workdir", "dry_run", "coordinator"} <= defined("train.py") and "count" in defined("-m diffjax.scaling")
  assert subprocess.run(["bash", "-n"], input="if true; then", text=True, capture_output=True, check=False).returncode


def test_readme_links_the_page():
  assert "(docs/clusters.md)" in (ROOT / "README.md").read_text()
