"""What pyproject.toml declares is what the library imports, no more and no less."""

import ast
import importlib.metadata
import pathlib
import re
import sys
import tomllib

ROOT = pathlib.Path(__file__).parents[1]
NEEDED_BY_TFDS = {"array-record", "importlib-resources"}
"""Imported by tensorflow-datasets, which declares neither for the way that we use it."""


def names(requirements):
  """The canonical names in a list such as ["jax>=0.10", "etils[epath]"]."""
  return {re.sub("[-_.]+", "-", re.match(r"[\w.-]+", text)[0]).lower() for text in requirements}


def declared():
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  extras = {name: names(requirements) for name, requirements in project["optional-dependencies"].items()}
  return names(project["dependencies"]), extras


def imported(paths):
  """The packages that files import, by the names that they are installed under."""
  modules = set()
  for path in paths:
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import):
        modules |= {alias.name.split(".")[0] for alias in node.names}
      elif isinstance(node, ast.ImportFrom) and not node.level:
        modules.add(node.module.split(".")[0])
  installed = importlib.metadata.packages_distributions()
  modules -= {*sys.stdlib_module_names, "diffjax", "configs"}
  return {name: names(installed.get(name, [name])) for name in modules}


def library():
  return [*(ROOT / "diffjax").rglob("*.py"), *ROOT.glob("*.py"), *(ROOT / "configs").glob("*.py")]


def test_every_import_is_declared():
  required, extras = declared()
  known = required.union(*(extras[name] for name in extras if name not in ("test", "lint", "reference")))
  assert not [name for name, packages in imported(library()).items() if not packages & known]


def test_every_dependency_is_imported():
  required, _ = declared()
  used = set().union(*imported(library()).values())
  assert required - used == NEEDED_BY_TFDS
