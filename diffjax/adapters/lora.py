"""Low-rank changes of weights, and their relatives.

A change is of one weight [..., I, O], a dense layer's or, with its window first, a convolution's; or of a bias or a
norm's scale, [C]. Its `of(weight)` is what strength 1 adds to the weight.
"""

from collections.abc import Mapping
from typing import Protocol

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from diffjax import struct
from diffjax.system import compilation
from diffjax.typing import Array, PyTree


class Change(Protocol):
  """A change of one weight."""

  def of(self, weight: Array) -> Array:
    """What strength 1 adds to `weight`, float32 of the same shape."""
    ...


@struct.dataclass
class LowRank:
  """scale * down @ up (Hu et al. 2021, section 4.1), for down [..., I, r] and up [r, O]."""

  down: Array | np.ndarray
  up: Array | np.ndarray
  scale: Array | float = 1.0

  def of(self, weight: Array) -> Array:
    return self.scale * (jnp.asarray(self.down) @ jnp.asarray(self.up))


@struct.dataclass
class Full:
  """The change itself, of any shape."""

  value: Array | np.ndarray

  def of(self, weight: Array) -> Array:
    return jnp.asarray(self.value)


@struct.dataclass
class Hadamard:
  """scale * the elementwise product of two changes (LoHa: Hyeon-Woo et al. 2022, proposition 1)."""

  left: LowRank
  right: LowRank
  scale: Array | float = 1.0

  def of(self, weight: Array) -> Array:
    return self.scale * self.left.of(weight) * self.right.of(weight)


@struct.dataclass
class Kronecker:
  """scale * the Kronecker product of two changes, of [i, o] and [..., j, p], in I and O (LoKr: Yeh et al. 2024)."""

  left: LowRank | Full
  right: LowRank | Full
  scale: Array | float = 1.0

  def of(self, weight: Array) -> Array:
    product = jnp.einsum("io,...jp->...ijop", self.left.of(weight), self.right.of(weight))
    *window, i, j, o, p = product.shape
    return self.scale * product.reshape(*window, i * j, o * p)


@struct.dataclass
class Decomposed:
  """Magnitude and direction apart: the sum of weight and change, normalised, times a learned magnitude (DoRA).

  Liu et al. 2024, eq. 5. The norm is that of each output's weights, or, as some trainers have it, of each input's.

  Attributes:
    change: of the direction.
    magnitude: [O], or [I].
    by_input: whether it is that of each input.
  """

  change: Change
  magnitude: Array | np.ndarray
  by_input: bool = struct.field(pytree_node=False, default=False)

  def of(self, weight: Array) -> Array:
    direction = weight + self.change.of(weight)
    own = weight.ndim - (2 if self.by_input else 1)
    others = tuple(axis for axis in range(weight.ndim) if axis != own)
    norm = jnp.sqrt(jnp.square(direction).sum(others))
    return direction * jnp.expand_dims(self.magnitude / norm, others) - weight


Parts = tuple[Change | None, ...]
Changes = Mapping[str, Parts]


@struct.dataclass
class LoRA:
  """Changes of a model's networks, by the paths of their parameters.

  A parameter of several matrices side by side has as many parts, None where nothing changes.

  Attributes:
    network: of the denoiser's network.
    towers: of each text encoder.
  """

  network: Changes
  towers: tuple[Changes, ...] = ()


def merge(params: PyTree, changes: Changes, strength: Array | float) -> PyTree:
  """{"params": ...} with strength times each change added, in the parameters' own dtypes.

  The strength is traced, so that another one compiles nothing; at 0 the parameters are unchanged, bit for bit.
  """
  flat = traverse_util.flatten_dict(params["params"], sep="/")
  # one by one, as most have the same few shapes
  changed = {path: _changed(flat[path], parts, strength) for path, parts in changes.items()}
  return params | {"params": traverse_util.unflatten_dict(flat | changed, sep="/")}


@compilation.jit
def _changed(weight, parts, strength):
  whole = weight.astype(jnp.float32)
  own = jnp.split(whole, len(parts), axis=-1)
  added = [jnp.zeros_like(w) if part is None else part.of(w) for w, part in zip(own, parts)]
  return (whole + strength * jnp.concatenate(added, axis=-1)).astype(weight.dtype)
