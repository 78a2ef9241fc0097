"""Frozen dataclasses that are pytrees, like `flax.struct`'s, but that JAX never mistakes for one another.

flax.struct registers its classes through `jax.tree_util.register_dataclass`, and jaxlib 0.10.2 treats the structures
of any two such classes as equal if their static fields are. Their hashes differ, so `jax.jit` usually notices; but if
two land in the same slot of its cache, it runs one sampler's program for the other.
"""

import dataclasses
from typing import TypeVar, dataclass_transform

import jax
import numpy as np
from flax.struct import field

T = TypeVar("T")
MAX_PRINTED = 8
"""Arrays with more elements than this are printed as their dtype and shape."""


class _Summary(str):
  """Text that prints without quotes."""

  def __repr__(self):
    return str(self)


def _summary(leaf):
  if isinstance(leaf, jax.Array | np.ndarray) and leaf.size > MAX_PRINTED:
    return _Summary(f"{leaf.dtype}{list(leaf.shape)}")
  return leaf


def _repr(instance) -> str:
  values = {f.name: getattr(instance, f.name) for f in dataclasses.fields(instance) if f.repr}
  shown = {name: jax.tree.map(_summary, value) for name, value in values.items()}
  return f"{type(instance).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


@dataclass_transform(field_specifiers=(field,), frozen_default=True)
def dataclass(cls: type[T]) -> type[T]:
  """A frozen dataclass and pytree: fields are children, those declared by `field(pytree_node=False)` are static.

  `replace(**changes)` returns a changed copy. Arrays of more than a few numbers print as their dtype and shape.
  Unflattening bypasses `__init__`, so checks there run only on what a caller passes.
  """
  printed = vars(cls).get("__repr__", _repr)
  return _register(dataclasses.dataclass(frozen=True, repr=False)(cls), printed)


def _register(cls, printed):
  cls.__repr__ = printed
  cls.replace = dataclasses.replace
  fields = dataclasses.fields(cls)
  children = [f.name for f in fields if f.metadata.get("pytree_node", True)]
  static = [f.name for f in fields if f.name not in children]

  def flatten(instance):
    return [getattr(instance, name) for name in children], tuple(getattr(instance, name) for name in static)

  def flatten_with_keys(instance):
    values, statics = flatten(instance)
    return list(zip(map(jax.tree_util.GetAttrKey, children), values)), statics

  def unflatten(statics, values):
    instance = object.__new__(cls)
    for name, value in zip((*children, *static), (*values, *statics)):
      object.__setattr__(instance, name, value)
    return instance

  jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
  return cls


__all__ = ["dataclass", "field"]
