"""Key maps: from the path of one of our parameters to its stored names and layout.

A map has two tables. `arrays` gives the name and layout of single parameters. `modules` gives, for a module's path, the
prefixes of its tensors' names, to which "weight" or "bias" is appended; tensors of several prefixes are stored
separately and concatenated here along the last axis. "{i}" stands for a layer's number.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

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
  "one": (lambda a: a.reshape(1), lambda a: a.reshape(())),
}
LEAVES = {"kernel": ("weight", "linear"), "scale": ("weight", "same"), "bias": ("bias", "same")}


class KeyMap(NamedTuple):
  modules: Mapping[str, tuple[str, ...]]
  arrays: Mapping[str, tuple[str, str]]

  def find(self, path: str) -> tuple[tuple[str, ...], str]:
    """The names under which a parameter is stored, and its layout, a key of LAYOUTS."""
    number = re.search(r"layer_(\d+)_", path)
    general = re.sub(r"layer_\d+_", "layer_{i}_", path)
    if general in self.arrays:
      name, layout = self.arrays[general]
      return (name,), layout
    module, leaf = general.rsplit("/", 1)
    suffix, layout = LEAVES[leaf]
    index = number[1] if number else ""
    return tuple(prefix.replace("{i}", index) + suffix for prefix in self.modules[module]), layout

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


def load(key_map: KeyMap, expected: PyTree, stored: Mapping[str, Stored], prefix: str, dtype: jnp.dtype) -> PyTree:
  """Parameters with the tree of shapes `expected`, from stored tensors, as dtype; all are checked before any is read.

  prefix is prepended to the paths of `expected` for the key map.

  Raises:
    ValueError: missing, surplus, wrongly shaped and non-floating-point tensors, all in one error; or weights that are
      NaN or infinite.
  """
  flat = traverse_util.flatten_dict(expected, sep="/")
  wanted = {}
  for path, leaf in flat.items():
    wanted |= jax.eval_shape(lambda a, path=path: key_map.to_stored(prefix + path, a), leaf)
  _check(wanted, stored)
  arrays = {path: _finite(path, key_map.to_ours(prefix + path, stored), stored) for path in flat}
  return traverse_util.unflatten_dict({path: jnp.asarray(a, dtype) for path, a in arrays.items()}, sep="/")


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
