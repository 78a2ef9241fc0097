"""Tensors in safetensors files: headers are checked first, data is read later."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffjax.system.files import MAX_JSON, file_in, parse_json, read_json, shown

FLOATS = ("F64", "F32", "F16", "BF16")


class Stored(NamedTuple):
  """One tensor of an open file."""

  path: Path
  name: str
  shape: tuple[int, ...]
  dtype: str
  file: Any

  def read(self) -> np.ndarray:
    return self.file.get_tensor(self.name).reshape(self.shape)


@contextlib.contextmanager
def open_tensors(folder: Path, name: str) -> Iterator[dict[str, Stored]]:
  """All tensors of the file `name` or of the shards in `name`.index.json, with their headers checked.

  Raises:
    ValueError: a damaged or hostile file or index; only headers have been read.
    FileNotFoundError: a missing file.
  """
  with contextlib.ExitStack() as stack:
    if (folder / name).exists():
      yield _open(folder, name, stack)
      return
    weight_map = _weight_map(folder, f"{name}.index.json")
    shards = {shard: _open(folder, shard, stack) for shard in sorted(set(weight_map.values()))}
    _check_shards(folder, weight_map, shards)
    yield {key: tensor for tensors in shards.values() for key, tensor in tensors.items()}


def _open(folder: Path, name: str, stack: contextlib.ExitStack) -> dict[str, Stored]:
  from safetensors import SafetensorError, safe_open

  path = file_in(folder, name)
  try:
    _check_header(path)
    file = stack.enter_context(safe_open(str(path), framework="np"))
    slices = {key: file.get_slice(key) for key in file.keys()}
    return {key: Stored(path, key, tuple(s.get_shape()), s.get_dtype(), file) for key, s in slices.items()}
  except (SafetensorError, ValueError) as error:
    reason = shown(str(error).removeprefix("Error while deserializing header: "), 200)
    raise ValueError(f"{path} is not a valid safetensors file ({reason}); download it again.") from None


def _check_header(path: Path) -> None:
  """Refuses what the safetensors library accepts: duplicate names (it keeps the last) and headers of up to 100 MB."""
  with path.open("rb") as file:
    length = int.from_bytes(file.read(8), "little")
    if length > MAX_JSON:
      raise ValueError(f"its header has {length} bytes, expected at most {MAX_JSON}")
    parse_json(file.read(length))


def _weight_map(folder: Path, name: str) -> dict[str, str]:
  weight_map = read_json(folder, name).get("weight_map")
  if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
    raise ValueError(f"{folder / name} has no valid weight_map from tensor names to file names; download it again.")
  for shard in weight_map.values():
    if not shard.endswith(".safetensors"):
      raise ValueError(f"{folder / name} names a shard {shown(shard)}; use only .safetensors files.")
  return weight_map


def _check_shards(folder: Path, weight_map: dict[str, str], shards: dict[str, dict[str, Stored]]) -> None:
  held = {(key, shard) for shard, tensors in shards.items() for key in tensors}
  if wrong := sorted(held ^ set(weight_map.items())):
    key, shard = wrong[0]
    raise ValueError(
      f"the shard index of {folder} and its files disagree on {shown(key)} in {shown(shard)}, and"
      f" {len(wrong) - 1} more; download them again."
    )
