"""docs/clusters.md: what its shell says is shell, and our flags in it are there."""

import pathlib
import re
import subprocess

import pytest

from diffjax import configuration

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "clusters.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
OURS = re.compile(r"(train\.py|sample\.py|-m diffjax\.\w+)((?:\\\n|[^\n;'\"])*)")
"""A script of ours and its arguments, up to the end of a line or of what is quoted."""


def defined():
  """The names of all flags of our scripts."""
  files = [ROOT / "train.py", ROOT / "sample.py", *(ROOT / "diffjax").rglob("*.py")]
  return {name for file in files for name in re.findall(r'DEFINE_\w+\(\s*"(\w+)"', file.read_text())}


def named(text):
  """The names of all flags that our scripts are given in a text."""
  return [flag for _, arguments in OURS.findall(text) for flag in re.findall(r"--([\w.]+)", arguments)]


def keys():
  return {f"config.{key}" for key in configuration.flat(configuration.default_config().to_dict())}


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_shell_is_shell(number):
  done = subprocess.run(["bash", "-n"], input=BLOCKS[number], capture_output=True, text=True, check=False)
  assert (done.returncode, done.stderr) == (0, "")


def test_flags_of_ours_exist():
  flags = [flag for block in BLOCKS for flag in named(block)]
  assert len(flags) > 20 and {
    "config",
    "workdir",
    "dry_run",
    "device",
    "count",
    "coordinator",
    "num_processes",
    "process_id",
  } <= set(flags)
  assert set(flags) <= defined()
  in_prose = [flag for flag in re.findall(r"`--(config\.[\w.]+)", PAGE)]
  assert in_prose and set(in_prose) <= keys()


def test_files_of_ours_exist():
  files = [file for block in BLOCKS for file in re.findall(r"--config=(\S+\.py)", block)]
  assert len(files) > 5 and all((ROOT / file).is_file() for file in files)


def test_unknown_flags_and_bad_shell_would_show():
  assert named("python train.py --config=a.py \\\n  --wrokdir=b 'x' --other") == ["config", "wrokdir"]
  assert "wrokdir" not in defined()
  assert subprocess.run(["bash", "-n"], input="if true; then", text=True, capture_output=True, check=False).returncode


def test_readme_links_the_page():
  assert "(docs/clusters.md)" in (ROOT / "README.md").read_text()
