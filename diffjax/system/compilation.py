"""How diffjax's programs are compiled: options, and the cache that keeps them between runs.

Importing this module changes nothing in the process; neither environment variables nor XLA_FLAGS are ever written.
"""

import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

# XLA's older convolutions are faster on CPU than YNNPACK's; this limits YNNPACK to individual matrix products.
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
_ONCE = {"xla_backend_optimization_level": 0}


def compiler_options(platform: str | None = None, *, once: bool = False) -> dict[str, Any]:
  """The XLA options for diffjax's programs on "cpu", "gpu", "tpu", or None for JAX's default: {} except on CPU.

  For `jax.jit(..., compiler_options=)`, and for `jax.pmap(f).lower(*args).compile(options)`, as `jax.pmap` takes none.
  Options unknown to this jaxlib are left out. `once` is for programs that run only once: it trades their speed for
  faster compilation.
  """
  return _known_cpu_options() | (_ONCE if once else {}) if (platform or jax.default_backend()) == "cpu" else {}


def platform() -> str:
  """The default backend: "cpu", "gpu" or "tpu"."""
  return jax.default_backend()


@functools.cache
def _known_cpu_options() -> dict[str, Any]:
  with jax.default_device(jax.local_devices(backend="cpu")[0]):
    lowered = jax.jit(lambda: jnp.zeros(())).lower()
  return {name: value for name, value in _CPU_OPTIONS.items() if _is_known(lowered, {name: value})}


def _is_known(lowered, options) -> bool:
  try:
    lowered.compile(compiler_options=options)
  except (jax.errors.JaxRuntimeError, ValueError):
    return False
  return True


class jit:
  """`jax.jit` with `compiler_options` for the default backend, determined at the first call; `once` as there.

  Inside another jit or a gradient, where JAX allows no options, it is a plain `jax.jit`: the outermost one decides.
  """

  def __init__(self, fun: Callable, *, once: bool = False, **jit_kwargs):
    functools.update_wrapper(self, fun)
    self._nested = jax.jit(fun, **jit_kwargs)
    self._make = functools.partial(jax.jit, fun, **jit_kwargs)
    self._once = once

  @functools.cached_property
  def _outermost(self):
    options = compiler_options(once=self._once)
    return self._make(compiler_options=options) if options else self._nested

  def __call__(self, *args, **kwargs):
    # Inside a jit even a new constant is traced, which is the only public way to detect it.
    nested = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((args, kwargs, jnp.zeros(()))))
    return (self._nested if nested else self._outermost)(*args, **kwargs)

  def lower(self, *args, **kwargs):
    """Lowers for these arguments, as `jax.jit(fun).lower` does; its `compile()` uses the same options."""
    return self._outermost.lower(*args, **kwargs)


def use_persistent_cache() -> pathlib.Path:
  """Caches every compiled program between runs in the user's cache folder, and returns that folder.

  That is $XDG_CACHE_HOME/diffjax/compilation, else ~/.cache/diffjax/compilation; a cache folder already configured in
  JAX stays in use. For scripts only: a library should leave this to its users.
  """
  folder = jax.config.values["jax_compilation_cache_dir"]
  if folder is None:
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = str(pathlib.Path(home) / "diffjax" / "compilation")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  return pathlib.Path(folder)
