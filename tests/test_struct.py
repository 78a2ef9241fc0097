"""Dataclasses as pytrees: what `flax.struct` gives, and that JAX never takes one class for another."""

import ast
import dataclasses
import itertools
import pathlib

import jax
import jax.numpy as jnp
import pytest

import diffjax
from diffjax import from_config, struct
from diffjax.from_config import construction


@struct.dataclass
class Pair:
  a: float = 1.0
  b: jax.Array | None = None
  name: str = struct.field(pytree_node=False, default="n")

  def __post_init__(self):
    if self.name == "bad":
      raise ValueError("bad")


@struct.dataclass
class Twin:
  a: float = 1.0
  b: jax.Array | None = None
  name: str = struct.field(pytree_node=False, default="n")


def test_children_static_fields_and_paths():
  pair = Pair(2.0, jnp.ones(3), name="m")
  paths, tree = jax.tree_util.tree_flatten_with_path(pair)
  assert [jax.tree_util.keystr(path) for path, _ in paths] == [".a", ".b"]
  back = jax.tree.unflatten(tree, [3.0, 4.0])
  assert back == Pair(3.0, 4.0, "m") and isinstance(back, Pair)
  assert jax.tree.structure(pair) == jax.tree.structure(Pair(name="m", b=0.0))
  assert jax.tree.structure(pair) != jax.tree.structure(Pair(b=0.0))


def test_frozen_and_replaced():
  with pytest.raises(dataclasses.FrozenInstanceError):
    Pair().a = 3.0
  assert Pair().replace(a=3.0) == Pair(3.0)
  with pytest.raises(ValueError, match="bad"):
    Pair().replace(name="bad")
  with pytest.raises(TypeError):
    Pair().replace(other=1)


def test_twins_are_told_apart():
  """register_dataclass of jaxlib 0.10.2 takes these two for equal."""
  assert jax.tree.structure(Pair()) != jax.tree.structure(Twin())
  made = [construction.construct(from_config.SAMPLERS, "sampler", {"name": name}) for name in from_config.SAMPLERS]
  trees = {type(sampler): jax.tree.structure(sampler) for sampler in made}
  assert len(trees) > 20
  for one, other in itertools.combinations(trees.values(), 2):
    assert one != other


@pytest.mark.slow
def test_jit_compiles_each_class_for_itself():
  """With flax.struct's, one in six of these ran another's program."""

  def make():
    @struct.dataclass
    class Kind:
      x: float = 1.0

    return Kind

  number_of = {make(): number for number in range(200)}
  told = jax.jit(lambda instance: jnp.full((), number_of[type(instance)]))
  assert [int(told(kind())) for kind in number_of] == list(number_of.values())


def test_the_library_uses_no_other():
  for path in pathlib.Path(diffjax.__file__).parent.rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.ImportFrom) and node.module in ("flax", "flax.struct") and path.name != "struct.py":
        assert not {"struct", "dataclass"} & {alias.name for alias in node.names}, path


def test_large_arrays_print_as_dtype_and_shape():
  assert repr(Pair(b=jnp.zeros(2))) == "Pair(a=1.0, b=Array([0., 0.], dtype=float32), name='n')"
  assert repr(Pair(b=jnp.zeros((10, 100)))) == "Pair(a=1.0, b=float32[10, 100], name='n')"
  assert (
    repr(Twin(Pair(b={"w": jnp.zeros(1000)})))
    == "Twin(a=Pair(a=1.0, b={'w': float32[1000]}, name='n'), b=None, name='n')"
  )
  sampler = from_config.SAMPLERS["ddpm"](diffjax.schedules.linear())
  assert len(repr(diffjax.schedules.linear())) < 200 and len(repr(sampler)) < 400


def test_what_is_traced_prints_too():
  printed = []
  jax.eval_shape(lambda b: printed.append(repr(Pair(b=b))), jnp.zeros(1000))
  assert printed == ["Pair(a=1.0, b=float32[1000], name='n')"]
