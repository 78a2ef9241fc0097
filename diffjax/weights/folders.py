"""What a folder of published weights may hold: plain names, regular files, JSON, no pickle, no way out of it."""

import json
import os
from pathlib import Path
from typing import Any

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
MOST_JSON = 2**26


def open_folder(folder: str | os.PathLike) -> Path:
  """The folder as a path, or ValueError saying what is there instead."""
  path = Path(folder).expanduser()
  if path.suffix.lower() in PICKLES and not path.is_dir():
    raise ValueError(
      f"{path} is a pickle, which can run code when it is opened and is never read: convert it to safetensors"
    )
  if not path.is_dir():
    there = "is a file" if path.exists() else "is not there"
    raise ValueError(f"weights folder {path} {there}: give the folder that holds config.json and model.safetensors")
  return path


def file_in(folder: Path, name: str) -> Path:
  """The regular file of that name directly in the folder.

  Links may lead elsewhere only as in Hugging Face's cache: from snapshots/... to the blobs beside snapshots.

  Raises:
    ValueError: a name that is not plain (with a separator, a drive, NUL or dots only), a link that leads out of the
      folder, or something that is not a regular file.
    FileNotFoundError: no such file.
  """
  if not isinstance(name, str) or not name or name in (".", "..") or set(name) & set("/\\\0:") or len(name) > 255:
    raise ValueError(f"{folder} names a file {str(name)[:100]!r}: expected a plain file name inside the folder")
  path = folder / name
  if not path.exists():
    raise FileNotFoundError(f"{folder} holds no {name}")
  if not _inside(path.resolve(), folder.resolve()):
    raise ValueError(f"{path} links to {path.resolve()}, outside the folder: put the file itself there")
  if not path.is_file():
    raise ValueError(f"{path} is not a regular file")
  return path


def _inside(target: Path, folder: Path) -> bool:
  if target.is_relative_to(folder):
    return True
  homes = [parent.parent for parent in (folder, *folder.parents) if parent.name == "snapshots"]
  return any(target.parent == home / "blobs" for home in homes)


def read_json(folder: Path, name: str) -> dict[str, Any]:
  """The JSON object in a file of the folder, or ValueError in one sentence."""
  path = file_in(folder, name)
  if path.stat().st_size > MOST_JSON:
    raise ValueError(f"{path} has {path.stat().st_size} bytes, expected a configuration of at most {MOST_JSON}")
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{path} is not JSON: {str(error)[:200]}") from None
  if not isinstance(value, dict):
    raise ValueError(f"{path} holds a {type(value).__name__}, expected a JSON object")
  return value


def refuse_pickles(folder: Path) -> None:
  """ValueError that says why, where a folder without safetensors holds pickles, or else that it holds no weights."""
  pickles = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLES)
  if pickles:
    raise ValueError(
      f"{folder} holds its weights as pickle ({', '.join(pickles[:3])}), which can run code when it is opened and is "
      "never read: convert it to safetensors"
    )
  raise ValueError(
    f"{folder} holds no weights: expected model.safetensors, or model.safetensors.index.json with shards"
  )
