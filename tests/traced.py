"""Counts how often a program is made. JAX's own count, `_cache_size`, stays zero once a process has made very many."""

import functools

import jax


class traced:
  """`jax.jit(fun)`, with the number of times that it was traced in `traces`."""

  def __init__(self, fun):
    self.traces = 0

    @functools.wraps(fun)
    def counted(*args, **kwargs):
      self.traces += 1
      return fun(*args, **kwargs)

    self._compiled = jax.jit(counted)

  def __call__(self, *args, **kwargs):
    return self._compiled(*args, **kwargs)
