"""Captions of a folder of image files: in metadata.jsonl or metadata.csv, or in a text file beside each image.

Metadata have `file_name`, relative to the folder they lie in, and `text`, as in Hugging Face's image folders. They may
lie in the folder itself, or in each of the folders of a split.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from diffjax.system.files import parse_json, read_at_most, shown

METADATA = ("metadata.jsonl", "metadata.csv")
MAX_BYTES, MAX_CAPTION = 2**30, 2**16


def read_captions(folder: Path, paths: Sequence[str]) -> list[str] | None:
  """The caption of each image, given by its path relative to the folder; None if the folder has no captions at all.

  Raises:
    ValueError: damaged metadata, or an image without a caption.
  """
  files = [folder / head / name for head in ("", *_heads(paths)) for name in METADATA]
  found = [file for file in files if file.is_file()]
  if found:
    texts = dict(row for file in found for row in _rows(file, folder))
    where = f"in {' and '.join(str(file) for file in found)}"
  else:
    texts = {path: _read(text) for path in paths if (text := (folder / path).with_suffix(".txt")).is_file()}
    where = "in a .txt file beside them"
    if not texts:
      return None
  missing = [path for path in paths if not texts.get(path, "").strip()]
  if missing:
    named = ", ".join(shown(path) for path in missing[:5]) + (" and others" if len(missing) > 5 else "")
    raise ValueError(
      f"{len(missing)} of {len(paths)} images have no caption {where}: {named}; write one for each, or move them away."
    )
  return [" ".join(texts[path].split()) for path in paths]


def _heads(paths) -> list[str]:
  return sorted({head for head, slash, _ in (path.partition("/") for path in paths) if slash})


def _rows(file: Path, folder: Path) -> Iterator[tuple[str, str]]:
  """(path relative to the folder, caption) of each row."""
  head = file.parent.relative_to(folder)
  read = _csv_rows if file.suffix == ".csv" else _json_rows
  for number, row in read(_decoded(file, MAX_BYTES), file):
    name, text = (row.get(key) for key in ("file_name", "text"))
    if not isinstance(name, str) or not isinstance(text, str):
      keys = ", ".join(sorted(shown(str(key), 40) for key in row))
      raise ValueError(f"{file} has no file_name and text in row {number}, but {keys}; give every row both.")
    yield (head / name).as_posix(), text


def _json_rows(text: str, file: Path) -> Iterator[tuple[int, dict]]:
  for number, line in enumerate(text.split("\n"), 1):  # JSON may hold the other ends of lines
    if not line.strip():
      continue
    try:
      row = parse_json(line)
    except ValueError as error:
      raise ValueError(f"{file} is not valid JSON in line {number} ({error}); correct it.") from None
    if not isinstance(row, dict):
      raise ValueError(f'{file} holds no object in line {number}; write {{"file_name": ..., "text": ...}}.')
    yield number, row


def _csv_rows(text: str, file: Path) -> Iterator[tuple[int, dict]]:
  try:
    yield from enumerate(csv.DictReader(io.StringIO(text, newline="")), 1)
  except csv.Error as error:
    raise ValueError(f"{file} is not valid CSV ({error}); correct it.") from None


def _read(file: Path) -> str:
  return _decoded(file, MAX_CAPTION)


def _decoded(file: Path, most: int) -> str:
  try:
    return read_at_most(file, most).decode("utf-8-sig")
  except UnicodeDecodeError:
    raise ValueError(f"{file} is not UTF-8 text; save it as that.") from None
