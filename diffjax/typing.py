"""Protocols that the rooms of the library share, and the words used for shapes.

Shapes: B is the batch, H and W the picture, C its channels; `[B, ...]` is any data with a leading batch.
`x = x0 + sigma * noise` everywhere downstream of a denoiser, so sigma is the noise-to-signal ratio of the model.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax

Array = jax.Array
PyTree = Any
Cond = Any
"""What a network is conditioned on: None, or a dict of arrays with leading [B], such as {"label": int32 [B]}."""


class Network(Protocol):
  """A network with its parameters bound: `(x, c_noise, cond) -> output`, all with leading [B]."""

  def __call__(self, x: Array, c_noise: Array, cond: Cond = None, *, key: Array | None = None) -> Array: ...


class Denoiser(Protocol):
  """Predicts the clean data: x [B, ...], sigma [] or [B] -> x0 [B, ...]; key is [B] typed keys or None."""

  def __call__(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Array: ...


class Sampler(Protocol):
  """One numerical method: a frozen pytree whose leaves are its hyper-parameters."""

  def init(self, x: Array) -> PyTree: ...

  def step(
    self, denoiser: Denoiser, x: Array, sigma: Array, sigma_next: Array, carry: PyTree, key: Array
  ) -> tuple[Array, PyTree]: ...


NoiseFn = Callable[[Array, tuple[int, ...]], Array]
"""(keys [B], shape [B, ...]) -> standard normal noise; samplers take one as a field, so that tests can replace it."""
