"""Compiler options are checked, never assumed; the cache is enabled only on request."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from diffjax.system import compilation


@pytest.fixture(autouse=True)
def forget():
  compilation._known_cpu_options.cache_clear()
  yield
  compilation._known_cpu_options.cache_clear()


def test_options_are_those_that_this_jaxlib_takes():
  options = compilation.compiler_options("cpu")
  assert options == compilation.compiler_options()
  jax.jit(lambda x: x + 1, compiler_options=options)(1.0)
  assert compilation.compiler_options("gpu") == compilation.compiler_options("tpu") == {}


def test_unknown_option_is_left_out_and_known_one_kept(monkeypatch):
  monkeypatch.setattr(compilation, "_CPU_OPTIONS", {"xla_no_such_option": True, "xla_cpu_enable_fast_math": False})
  assert compilation.compiler_options("cpu") == {"xla_cpu_enable_fast_math": False}


def test_jit_passes_its_options_and_arguments_on(monkeypatch):
  seen = []
  stock = jax.jit
  monkeypatch.setattr(compilation.jax, "jit", lambda fun, **kwargs: seen.append(kwargs) or stock(fun, **kwargs))
  double = compilation.jit(lambda x, n: n * x, static_argnames="n")
  assert seen == [{"static_argnames": "n"}]  # nothing was asked of a backend yet
  assert double(jnp.arange(3), n=2).tolist() == [0, 2, 4]
  options = compilation.compiler_options()
  assert not options or seen[-1] == {"static_argnames": "n", "compiler_options": options}


def test_jit_compiles_once_and_works_inside_jit_grad_and_vmap():
  traces = []

  @compilation.jit
  def square(x):
    """Squares."""
    traces.append(x)
    return x * x

  assert square(3.0) == square(4.0) - 7 and len(traces) == 1
  assert square.__doc__ == "Squares." and square.__name__ == "square"
  assert jax.jit(lambda x: square(x) + square(jnp.float32(2)))(3.0) == 13
  assert jax.grad(square)(3.0) == 6
  assert jax.vmap(square)(jnp.arange(3.0)).tolist() == [0, 1, 4]
  assert jax.jit(jax.grad(lambda x: square(x)))(3.0) == 6
  assert jax.lax.scan(lambda x, _: (square(x), ()), 2.0, None, length=2)[0] == 16
  assert square.lower(3.0).compile()(3.0) == 9


def test_pmap_takes_the_options_through_its_lowering():
  x = jnp.arange(3.0)[None]
  compiled = jax.pmap(lambda x: 2 * x).lower(x).compile(compilation.compiler_options())
  assert compiled(x).tolist() == [[0, 2, 4]]


SCRIPT = """
import os
import jax
from jax._src import xla_bridge
before = dict(os.environ)
values = lambda: {k: v for k, v in jax.config.values.items()}
config = values()
from diffjax.system import compilation
f = compilation.jit(lambda x: x + 1)
assert dict(os.environ) == before and values() == config and not xla_bridge.backends_are_initialized()
folder = compilation.use_persistent_cache()
assert dict(os.environ) == before and folder == compilation.use_persistent_cache()
print(folder)
print(f(1))
"""


@pytest.mark.parametrize("given", ["XDG_CACHE_HOME", "HOME", "JAX_COMPILATION_CACHE_DIR"])
def test_import_changes_nothing_and_the_cache_lies_where_the_user_wants_it(tmp_path, given):
  env = {"PATH": "", "JAX_PLATFORMS": "cpu", "HOME": str(tmp_path / "home"), given: str(tmp_path)}
  run = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=120)
  assert run.returncode == 0, run.stderr
  below = {"XDG_CACHE_HOME": "diffjax/compilation", "HOME": ".cache/diffjax/compilation"}
  folder, answer = run.stdout.split()
  assert pathlib.Path(folder) == tmp_path / below.get(given, "") and answer == "2"
  if given != "JAX_COMPILATION_CACHE_DIR":
    assert list(pathlib.Path(folder).iterdir())


def test_a_program_that_runs_once_is_compiled_quickly_and_gives_the_same():
  assert compilation.compiler_options("cpu", once=True) == compilation.compiler_options("cpu") | compilation._ONCE
  assert compilation.compiler_options("gpu", once=True) == {}
  draw = lambda: jax.random.normal(jax.random.key(0), (8,))
  assert jnp.allclose(compilation.jit(draw, once=True)(), draw(), rtol=1e-6)
