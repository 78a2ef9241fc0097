"""Untrusted files: plain names, regular files, no escape from the folder, small and unambiguous JSON."""

import json
import reprlib
from pathlib import Path
from typing import Any

MAX_JSON = 2**20
"""Maximum bytes of JSON to read; as Python objects they take up to 25 times as much."""
MAX_LEVELS = 32


def file_in(folder: Path, name: str) -> Path:
  """The regular file of that name directly in the folder.

  Links may leave the folder only as in Hugging Face's cache: from snapshots/... to the blobs/ next to snapshots/.

  Raises:
    ValueError: a name that is not plain (with a separator, a drive, NUL or dots only), a link out of the folder or
      in a loop, or something that is not a regular file.
    FileNotFoundError: no such file.
  """
  if not isinstance(name, str) or not name or name in (".", "..") or set(name) & set("/\\\0:") or len(name) > 255:
    raise ValueError(f"{folder} names a file {shown(name)}; use a plain file name inside the folder.")
  path = folder / name
  try:
    target = path.resolve(strict=True)
  except FileNotFoundError:
    raise FileNotFoundError(f"{folder} holds no {shown(name)}; add it.") from None
  except (OSError, RuntimeError, UnicodeError):  # a link loop, or a name that no file can have
    raise ValueError(f"{folder} holds no file {shown(name)} that can be found; put the file itself there.") from None
  if not _inside(target, folder.resolve()):
    raise ValueError(f"{path} links to {target}, outside the folder; put the file itself there.")
  if not path.is_file():
    raise ValueError(f"{path} is not a regular file; put one there.")
  return path


def _inside(target: Path, folder: Path) -> bool:
  if target.is_relative_to(folder):
    return True
  homes = [parent.parent for parent in (folder, *folder.parents) if parent.name == "snapshots"]
  return any(target.parent == home / "blobs" for home in homes)


def read_json(folder: Path, name: str, most: int = MAX_JSON, *, infinite: bool = False) -> dict[str, Any]:
  """The JSON object in the `file_in` a folder; ValueError if there is none, or more than `most` bytes.

  With `infinite` it may have the constant -Infinity, which is not JSON.
  """
  text = read_small(folder, name, most)
  try:
    value = parse_json(text, infinite=infinite)
  except ValueError as error:
    raise ValueError(f"{folder / name} is not valid JSON ({error}); download it again.") from None
  if not isinstance(value, dict):
    raise ValueError(f"{folder / name} holds a {type(value).__name__}, expected a JSON object; download it again.")
  return value


def read_small(folder: Path, name: str, most: int) -> bytes:
  """The bytes of the `file_in` a folder; ValueError if there are more than `most`."""
  return read_at_most(file_in(folder, name), most)


def read_at_most(path: Path, most: int) -> bytes:
  """The bytes of a file, local or in a bucket; ValueError if there are more than `most`."""
  with path.open("rb") as file:
    read = file.read(most + 1)
  if len(read) > most:
    raise ValueError(f"{path} is too large, expected at most {most} bytes.")
  return read


def parse_json(text: str | bytes, *, infinite: bool = False) -> Any:
  """Parses JSON; bytes must be UTF-8; `infinite` as `read_json`.

  Raises:
    ValueError: not JSON; a duplicate key in an object; a number that is not finite; more than 32 levels of nesting.
  """
  try:
    text = text.decode("utf-8") if isinstance(text, bytes) else text
    constant = _infinite if infinite else _refuse_number
    value = json.loads(text, object_pairs_hook=_object, parse_constant=constant, parse_float=_finite)
  except RecursionError:
    raise ValueError(_TOO_DEEP) from None
  except ValueError as error:
    raise ValueError(shown(str(error), 200)) from None
  _check_depth(value)
  return value


_TOO_DEEP = f"more than {MAX_LEVELS} levels of nesting"


def _check_depth(value):
  level = [[value]]
  for _ in range(MAX_LEVELS + 1):
    inner = (value.values() if isinstance(value, dict) else value for value in level)
    level = [item for items in inner for item in items if isinstance(item, dict | list)]
    if not level:
      return
  raise ValueError(_TOO_DEEP)


def _object(pairs):
  value = dict(pairs)
  if len(value) < len(pairs):
    seen = set()
    twice = next(key for key, _ in pairs if key in seen or seen.add(key))
    raise ValueError(f"the key {shown(twice)} is duplicated")
  return value


def _finite(text):
  number = float(text)
  return number if abs(number) < float("inf") else _refuse_number(text)


def _infinite(text):
  return -float("inf") if text == "-Infinity" else _refuse_number(text)


def _refuse_number(text):
  raise ValueError(f"{shown(text)} is not a finite number")


def shown(value: Any, most: int = 80) -> str:
  """Untrusted text for a message, shortened to part of a line: printable strings as they are, others escaped."""
  text = value[: most + 1] if isinstance(value, str) else reprlib.repr(value)
  text = text if text.isprintable() else ascii(text)
  return text if len(text) <= most else f"{text[:most]}..."
