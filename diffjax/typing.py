"""Protocols that the rooms of the library share, and the words used for shapes.

Shapes: B is the batch, H and W the picture, C its channels; `[B, ...]` is any data with a leading batch.
`x = x0 + sigma * noise` everywhere downstream of a denoiser, so sigma is the noise-to-signal ratio of the model.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

Array = jax.Array
ArrayLike = Array | np.ndarray | float
"""Where a NumPy array or a number of Python's will do, too."""
PyTree = Any
Cond = Any
"""What a network is conditioned on: None, or a dict of arrays with leading [B], such as {"label": int32 [B]}."""


class Network(Protocol):
  """A network with its parameters bound: `(x, c_noise, cond) -> output`, all with leading [B]."""

  def __call__(self, x: Array, c_noise: Array, cond: Cond = None, *, key: Array | None = None) -> Array: ...


class Denoiser(Protocol):
  """Predicts the clean data: x [B, ...], sigma [] or [B] -> x0 [B, ...]; key is [B] typed keys or None."""

  def __call__(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Array: ...


class Codec(Protocol):
  """Between pictures float [B, H, W, C] in [-1, 1] and the x0 [B, ...] that a model is trained on; a frozen pytree."""

  def encode(self, images: Array, key: Array | None = None) -> Array: ...

  def decode(self, x0: Array) -> Array: ...


class Conditioner(Protocol):
  """From what a person asks for to what a network is conditioned on."""

  @property
  def null_cond(self) -> Cond:
    """The cond of asking for nothing, of any batch; None where the network has none."""
    ...

  def cond(self, num: int, *args: Any, **asked: Any) -> Cond:
    """The cond, with leading [num], of `num` pictures."""
    ...

  def training_cond(self, batch: PyTree, keys: Array) -> Cond:
    """The cond of a training batch, from which each example's own key of keys [b] drops a part."""
    ...


class Objective(Protocol):
  """What is trained: (params, batch, key) -> (losses [b], metrics: scalars or [b], which are averaged and reported).

  `frozen` is what a step reads and does not change, such as a teacher; it is part of the training state. `axis_name` is
  the mapped device axis, for a loss that looks at the whole batch.
  """

  def __call__(
    self, params: PyTree, batch: PyTree, key: Array, *, frozen: PyTree = None, axis_name: str | None = None
  ) -> tuple[Array, dict[str, Array]]: ...


class Sampler(Protocol):
  """One numerical method: a frozen pytree whose leaves are its hyper-parameters."""

  def init(self, x: Array) -> PyTree: ...

  def step(
    self, denoiser: Denoiser, x: Array, sigma: Array, sigma_next: Array, carry: PyTree, key: Array
  ) -> tuple[Array, PyTree]: ...


NoiseFn = Callable[[Array, tuple[int, ...]], Array]
"""(keys [B], shape [B, ...]) -> standard normal noise; samplers take one as a field, so that tests can replace it."""
