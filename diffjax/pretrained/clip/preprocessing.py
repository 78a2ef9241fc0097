"""Image preprocessing of published towers from their folders; LAION's ViT-L/14, for example, differs from CLIP's."""

import json
import os
from pathlib import Path
from typing import Any

from diffjax.pretrained.folders import open_folder
from diffjax.system.files import read_json, shown

MOST = 1e6
HUGGING_FACE, OPEN_CLIP = "preprocessor_config.json", "open_clip_config.json"


def load_preprocessing(folder: str | os.PathLike) -> dict[str, Any]:
  """The mean, std and crop in a folder of published weights, as arguments of `networks.ImageFeatures`.

  From Hugging Face's `preprocessor_config.json`, or `preprocess_cfg` in OpenCLIP's `open_clip_config.json`; missing
  values are omitted.

  Raises:
    ValueError: a damaged file, a mean or std that is not three numbers, or an unsupported crop or resize mode.
  """
  path = open_folder(folder)
  if (path / HUGGING_FACE).exists():
    name, said = HUGGING_FACE, read_json(path, HUGGING_FACE)
    mean, std, crop = said.get("image_mean"), said.get("image_std"), said.get("do_center_crop")
    if crop not in (None, True, False):
      raise ValueError(f"{name} has do_center_crop {shown(crop)}, expected true or false; correct it.")
  elif (path / OPEN_CLIP).exists():
    name, said = OPEN_CLIP, read_json(path, OPEN_CLIP).get("preprocess_cfg", {})
    if not isinstance(said, dict):
      raise ValueError(f"{name} has preprocess_cfg {shown(said)}, expected an object; correct it.")
    mean, std, mode = said.get("mean"), said.get("std"), said.get("resize_mode")
    if mode not in (None, "shortest", "squash"):
      raise ValueError(f"{name} has resize_mode {shown(mode)}, expected shortest or squash; correct it.")
    crop = None if mode is None else mode == "shortest"
  else:
    return {}
  said = {"mean": _numbers(name, "mean", mean, -MOST), "std": _numbers(name, "std", std, 0), "crop": crop}
  return {key: value for key, value in said.items() if value is not None}


def save_preprocessing(folder: str | os.PathLike, mean: Any, std: Any, crop: bool | None) -> None:
  """Writes a `preprocessor_config.json` that `load_preprocessing` reads, without those that are None."""
  said = {"image_mean": mean, "image_std": std, "do_center_crop": crop}
  said = {key: value for key, value in said.items() if value is not None}
  (Path(folder) / HUGGING_FACE).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def _numbers(name, key, value, above):
  if value is None:
    return None
  right = isinstance(value, list) and len(value) == 3
  if not right or not all(type(n) in (int, float) and above < n < MOST for n in value):
    raise ValueError(
      f"{name} has an image's {key} {shown(value)}, expected three numbers{', above 0' * (above == 0)}; correct it."
    )
  return tuple(map(float, value))
