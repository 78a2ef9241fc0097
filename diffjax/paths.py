"""Folders of runs, on this machine's file systems or in a bucket such as gs://bucket/run."""

import os
import pathlib
from collections.abc import Iterator
from typing import Any

SCHEMES = ("gs://", "s3://", "az://")


def as_path(folder: str | os.PathLike) -> Any:
  """A local folder as a `pathlib.Path`; one in a bucket as an `etils.epath.Path`, which has the same methods."""
  if not is_remote(folder):
    return pathlib.Path(folder)
  from etils import epath

  return epath.Path(folder)


def is_remote(folder: str | os.PathLike) -> bool:
  """Whether a folder lies in a bucket: nothing there can be locked, appended to, renamed at once, or run full."""
  return os.fspath(folder).startswith(SCHEMES)


def files_below(folder: Any) -> Iterator[Any]:
  """All files in a folder and its sub-folders; epath has no `**`."""
  for entry in folder.iterdir():
    yield from files_below(entry) if entry.is_dir() else [entry]
