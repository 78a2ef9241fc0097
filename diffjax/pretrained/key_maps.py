"""Key maps: from the path of one of our parameters to its stored names and layout."""

import contextlib
import contextvars
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from diffjax.pretrained.tensors import FLOATS, Stored
from diffjax.system.files import shown
from diffjax.typing import PyTree

LAYOUTS = {  # ours -> stored, stored -> ours
  "same": (lambda a: a, lambda a: a),
  "linear": (lambda a: a.T, lambda a: a.T),
  "convolution": (lambda a: a.transpose(3, 2, 0, 1), lambda a: a.transpose(2, 3, 1, 0)),
  "pointwise": (lambda a: a.T[:, :, None, None], lambda a: a[:, :, 0, 0].T),
  "one": (lambda a: a.reshape(1), lambda a: a.reshape(())),
}
LEAVES = {"kernel": ("weight", "linear"), "scale": ("weight", "same"), "bias": ("bias", "same")}


class KeyMap(NamedTuple):
  """`find` gives, for a parameter's path, the names under which it is stored, and its layout, a key of LAYOUTS.

  A parameter with several names is stored in parts, which are concatenated here along the last axis.
  """

  find: Callable[[str], tuple[tuple[str, ...], str]]

  def to_stored(self, path: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """One of our parameters as stored tensors, by name."""
    names, layout = self.find(path)
    width = array.shape[-1] // len(names) if array.ndim else 0
    parts = [array[..., i * width : (i + 1) * width] for i in range(len(names))] if len(names) > 1 else [array]
    return {name: LAYOUTS[layout][0](part) for name, part in zip(names, parts)}

  def to_ours(self, path: str, stored: Mapping[str, Stored]) -> np.ndarray:
    """One of our parameters, read from its stored tensors."""
    names, layout = self.find(path)
    parts = [LAYOUTS[layout][1](stored[name].read()) for name in names]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def from_tables(modules: Mapping[str, tuple[str, ...]], arrays: Mapping[str, tuple[str, str]]) -> KeyMap:
  """A key map from two tables, in whose keys "{i}" stands for a layer's number.

  Args:
    modules: for a module's path, the prefixes of its tensors' names, to which "weight" or "bias" is appended.
    arrays: for the path of a single parameter, its name and layout.
  """

  def find(path):
    number = re.search(r"layer_(\d+)_", path)
    general = re.sub(r"layer_\d+_", "layer_{i}_", path)
    if general in arrays:
      name, layout = arrays[general]
      return (name,), layout
    module, leaf = general.rsplit("/", 1)
    suffix, layout = LEAVES[leaf]
    index = number[1] if number else ""
    return tuple(prefix.replace("{i}", index) + suffix for prefix in modules[module]), layout

  return KeyMap(find)


def from_rules(rules: Sequence[tuple[str, str | Callable]], layout_of: Callable[[str], str]) -> KeyMap:
  """A key map that rewrites a module's path by regular expressions, in order, and appends ".weight" or ".bias".

  Args:
    rules: patterns and replacements, as in `re.sub`.
    layout_of: the layout of the kernel of a module, by its path.
  """

  def find(path):
    module, leaf = path.rsplit("/", 1) if "/" in path else (path, "scale")
    name = module
    for pattern, replacement in rules:
      name = re.sub(pattern, replacement, name)
    suffix, layout = LEAVES[leaf]
    return (f"{name}.{suffix}",), layout_of(module) if leaf == "kernel" else layout

  return KeyMap(find)


@contextlib.contextmanager
def unread() -> Iterator[None]:
  """Within it `load` checks tensors but reads none, and returns their shapes and dtypes: for dry runs."""
  token = _reading.set(False)
  try:
    yield
  finally:
    _reading.reset(token)


_reading = contextvars.ContextVar("_reading", default=True)
DTYPES = {"F64": jnp.float64, "F32": jnp.float32, "F16": jnp.float16, "BF16": jnp.bfloat16}


def load(
  key_map: KeyMap, expected: PyTree, stored: Mapping[str, Stored], prefix: str, dtype: jnp.dtype | None
) -> PyTree:
  """Parameters with the tree of shapes `expected`, from stored tensors; all are checked before any is read.

  prefix is prepended to the paths of `expected` for the key map. They are stored in dtype; None: as in the file.

  Raises:
    ValueError: missing, surplus, wrongly shaped and non-floating-point tensors, all in one error; or weights that are
      NaN or infinite.
  """
  flat: dict[str, Any] = traverse_util.flatten_dict(expected, sep="/")
  wanted = {}
  for path, leaf in flat.items():
    wanted |= _names(key_map, prefix + path, leaf)
  stored = {name: _reshaped(tensor, wanted.get(name)) for name, tensor in stored.items()}
  _check(wanted, stored)
  if not _reading.get():
    kept = lambda path, leaf: dtype or DTYPES[stored[next(iter(_names(key_map, prefix + path, leaf)))].dtype]
    shapes = {path: jax.ShapeDtypeStruct(leaf.shape, kept(path, leaf)) for path, leaf in flat.items()}
    return traverse_util.unflatten_dict(shapes, sep="/")
  read = lambda path: _finite(path, key_map.to_ours(prefix + path, stored), stored)
  # one by one, so that no more than one tensor is in memory twice
  return traverse_util.unflatten_dict({path: jnp.asarray(read(path), dtype) for path in flat}, sep="/")


def save(
  folder: str | os.PathLike, name: str, config: Mapping[str, Any], key_map: KeyMap, params: PyTree, prefix: str = ""
) -> None:
  """Writes config.json and {"params": ...}, in their own dtype, as `name`.safetensors; `prefix` as in `load`.

  The folder is created if missing; these two files in it are replaced.
  """
  from safetensors.numpy import save_file

  tensors = {}
  for path, array in traverse_util.flatten_dict(params["params"], sep="/").items():
    tensors |= key_map.to_stored(prefix + path, np.asarray(array))
  tensors = {key: np.ascontiguousarray(tensor).reshape(tensor.shape) for key, tensor in tensors.items()}
  folder = Path(folder).expanduser()
  folder.mkdir(parents=True, exist_ok=True)
  partial = folder / f"{name}.safetensors.partial"
  save_file(tensors, partial, metadata={"format": "pt"})
  partial.replace(folder / f"{name}.safetensors")
  (folder / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")


def _names(key_map: KeyMap, path: str, leaf: jax.ShapeDtypeStruct) -> dict[str, jax.ShapeDtypeStruct]:
  """The stored tensors that make up a leaf, by name."""
  return jax.eval_shape(lambda a: key_map.to_stored(path, a), leaf)


def _reshaped(tensor, wanted):
  """The tensor, but a 1x1 convolution stored as a matrix, or the reverse, in the wanted shape."""
  if wanted is None or {len(tensor.shape), len(wanted.shape)} != {2, 4}:
    return tensor
  same = max(tensor.shape, wanted.shape, key=len) == (*min(tensor.shape, wanted.shape, key=len), 1, 1)
  return tensor._replace(shape=wanted.shape) if same else tensor


def _finite(path, array, stored):
  if not np.isfinite(array).all():
    where = next(tensor.path for tensor in stored.values())
    raise ValueError(f"the weights of {path} in {where} are not all finite, as the file is damaged; download it again.")
  return array


def _check(wanted: Mapping[str, jax.ShapeDtypeStruct], stored: Mapping[str, Stored]) -> None:
  shared = sorted(set(wanted) & set(stored))
  shapes = [name for name in shared if stored[name].shape != wanted[name].shape]
  dtypes = [name for name in shared if stored[name].dtype not in FLOATS]
  faults = [
    _listed("missing", sorted(set(wanted) - set(stored))),
    _listed("surplus", [shown(name) for name in sorted(set(stored) - set(wanted))]),
    _listed(
      "wrongly shaped", [f"{name} {shown(stored[name].shape)}, expected {wanted[name].shape}" for name in shapes]
    ),
    _listed("not of a floating type", [f"{name} {stored[name].dtype}" for name in dtypes]),
  ]
  if any(faults):
    where = next((tensor.path for tensor in stored.values()), "the file")
    listed = "; ".join(filter(None, faults))
    raise ValueError(f"the tensors in {where} do not match the configuration ({listed}); take both from one model.")


def _listed(kind: str, names: list[str], most: int = 8) -> str:
  more = f" and {len(names) - most} more" if len(names) > most else ""
  return f"{kind}: {', '.join(names[:most])}{more}" if names else ""
