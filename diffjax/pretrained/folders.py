"""Checks that published weights are where they should be, in safetensors rather than pickles."""

import os
from pathlib import Path

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def open_folder(folder: str | os.PathLike) -> Path:
  """The folder as a path; raises ValueError if it is a pickle, another file, or missing."""
  path = Path(folder).expanduser()
  refuse_pickle(path)
  if not path.is_dir():
    there = "is a file" if path.exists() else "does not exist"
    raise ValueError(f"weights folder {path} {there}; give the folder that holds config.json and model.safetensors.")
  return path


def open_file(path: str | os.PathLike, remedy: str) -> Path:
  """The file as a path; raises ValueError if it is a pickle, and FileNotFoundError with `remedy` if it is missing."""
  path = Path(path).expanduser()
  refuse_pickle(path)
  if not path.is_file():
    raise FileNotFoundError(f"there is no file {path}; {remedy}.")
  return path


def refuse_pickle(path: Path) -> None:
  """Raises ValueError if the path is a pickle's."""
  if path.suffix.lower() in PICKLES and not path.is_dir():
    raise ValueError(
      f"{path} is a pickle, which can execute code when opened and is never read; convert it to safetensors."
    )


def refuse_pickles(folder: Path) -> None:
  """Raises ValueError for a folder without safetensors: it holds pickles, or no weights at all."""
  pickles = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLES)
  if pickles:
    raise ValueError(
      f"{folder} holds its weights as pickle ({', '.join(pickles[:3])}), which can execute code when opened and is "
      "never read; convert it to safetensors."
    )
  raise ValueError(
    f"{folder} holds no weights; add model.safetensors, or model.safetensors.index.json with its shards."
  )
