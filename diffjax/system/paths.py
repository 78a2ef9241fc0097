"""Run folders, on local file systems or in a bucket such as gs://bucket/run."""

import importlib.util
import os
import pathlib
from collections.abc import Iterator
from typing import Any

REMOTE = "gs://"
DRIVERS = ("gcsfs", "tensorflow")
"""Packages through which epath can read a bucket; one is enough."""


def as_path(folder: str | os.PathLike) -> pathlib.Path:
  """A local folder as a `pathlib.Path`; one in a bucket as an `etils.epath.Path`, which has the same methods.

  Raises:
    ValueError: a scheme other than gs://.
    ImportError: a bucket, with no package installed to read it.
  """
  if not is_remote(folder):
    if "://" in os.fspath(folder):
      raise ValueError(f"{folder} is neither a local folder nor one in a bucket; begin a bucket with {REMOTE}.")
    return pathlib.Path(folder)
  if not any(importlib.util.find_spec(name) for name in DRIVERS):
    raise ImportError(f'{folder} is in a bucket, but gcsfs is missing; run pip install -e ".[gcs]" once.')
  from etils import epath

  return epath.Path(folder)  # pyright: ignore[reportReturnType]  it does not inherit from pathlib.Path


def is_remote(folder: str | os.PathLike) -> bool:
  """Whether a folder is in a bucket, which has no locks, appends, atomic renames or limit on space."""
  return os.fspath(folder).startswith(REMOTE)


def files_below(folder: Any) -> Iterator[Any]:
  """All files in a folder and its sub-folders; epath has no `**`."""
  for entry in folder.iterdir():
    yield from files_below(entry) if entry.is_dir() else [entry]
