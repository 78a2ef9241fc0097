"""What a folder of published weights may be: a folder, with safetensors and no pickle."""

import os
from pathlib import Path

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


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
