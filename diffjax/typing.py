"""Protocols shared across the library, and the notation for shapes.

Shapes: B is the batch size, H and W the image size, C the channels; `[B, ...]` is any data with a leading batch axis.
`x = x0 + sigma * noise` everywhere downstream of a denoiser, so sigma is the noise-to-signal ratio of the model.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

Array = jax.Array
ArrayLike = Array | np.ndarray | float
"""Where a NumPy array or a Python number is accepted too."""
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
  """Maps images float [B, H, W, C] in [-1, 1] to the x0 [B, ...] a model is trained on, and back; a frozen pytree."""

  @property
  def downscaling(self) -> int:
    """How many pixels a side of x0 spans."""
    ...

  def encode(self, images: Array, key: Array | None = None) -> Array: ...

  def decode(self, x0: Array) -> Array: ...


class Conditioner(Protocol):
  """Maps what a user asks for to the cond of a network."""

  def conds(self, num: int, size: tuple[int, int], **asked: Any) -> tuple[Cond, Cond]:
    """(cond, null cond) for `num` images of (H, W) pixels.

    The cond has a leading [num], and is None if nothing is asked for. The null cond, to guide away from, has no such
    axis, and is None if the network knows none.
    """
    ...

  def training_cond(self, batch: PyTree, keys: Array) -> Cond:
    """The cond of a training batch, parts of which are dropped at random, by each example's own key of keys [b]."""
    ...


class Objective(Protocol):
  """A training objective: (params, batch, key) -> (losses [b], metrics: scalars or [b], averaged and reported).

  `frozen` is read but not changed by a step, such as a teacher; it is part of the training state. `axis_name` is the
  mapped device axis, for losses over the whole batch.
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
