"""Checksums of a checkpoint's files: written once they are complete, compared when they are read."""

import hashlib
import json
import pathlib

from diffjax.cluster import processes
from diffjax.system import paths
from diffjax.system.files import parse_json, shown

FILE = "checksums.json"


def files(path: pathlib.Path) -> list[str]:
  """The files that get checksums: those in sub-folders, as orbax writes its own metadata next to these at the end."""
  folders = [entry for entry in path.iterdir() if entry.is_dir()]
  return sorted(str(file.relative_to(path)) for folder in folders for file in paths.files_below(folder))


def checksum(path: pathlib.Path) -> str:
  """The SHA-256 of a file, in hexadecimal."""
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: pathlib.Path) -> None:
  """Writes the checksums of a checkpoint's files into its folder."""
  (path / FILE).write_text(json.dumps({name: checksum(path / name) for name in files(path)}))


def find_damage(path: pathlib.Path) -> str | None:
  """What is wrong with a checkpoint's files, or None; each process checks a part of them."""
  index, count = processes.process().values()
  own = lambda: (_damage(path, slice(index, None, count)) or "")[:600]
  return next(filter(None, processes.from_all(own)), None)


def _damage(path: pathlib.Path, part: slice = slice(None)) -> str | None:
  """What is wrong with a checkpoint's files, or None; checks only those in the slice `part`."""
  try:
    listed = list(parse_json((path / FILE).read_text()).items())[part]
  except (AttributeError, FileNotFoundError, IsADirectoryError, ValueError):
    return f"{FILE} cannot be read"
  for name, expected in listed:
    file = pathlib.PurePath(name)
    if file.is_absolute() or ".." in file.parts or not name.isprintable() or max(map(len, file.parts), default=0) > 255:
      return f"{FILE} names {shown(name)}, which is not a file of a checkpoint"
    try:
      if not (path / name).is_file():
        return f"{name} is missing"
      if checksum(path / name) != expected:
        return f"{name} fails its checksum"
    except FileNotFoundError:
      return f"{name} is missing"
  return None
