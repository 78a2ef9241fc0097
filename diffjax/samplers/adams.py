"""Shared parts of Adams methods: past values, and integrals of the polynomial through them."""

import numbers

import jax.numpy as jnp
import numpy as np

from diffjax import struct
from diffjax.arrays import expand
from diffjax.typing import Array

# 16 points integrate exp over steps as long as log(1e5) to 1e-12, and polynomials exactly
POINTS, POINT_WEIGHTS = np.polynomial.legendre.leggauss(16)


def check_order(method: str, order: int, highest: int) -> None:
  """Raises ValueError unless `order` is one of the whole numbers 1..highest."""
  if not isinstance(order, numbers.Integral) or isinstance(order, bool) or not 1 <= order <= highest:
    raise ValueError(f"{method} has no order {order!r}; choose one of 1 to {highest}.")


@struct.dataclass
class History:
  """Past values [N, B, ...], latest first, and the places [N] where they were taken: inf for those not yet filled."""

  values: Array
  places: Array

  def push(self, value: Array, place: Array) -> "History":
    """The history with one more value [B, ...]; the oldest is dropped."""
    return History(_shift(self.values, value), _shift(self.places, jnp.asarray(place, self.places.dtype)))


def _shift(past, latest):
  return jnp.concatenate([latest[None], past[:-1]])


def empty(x: Array, length: int) -> History:
  """An empty history for values like x [B, ...]."""
  return History(jnp.zeros((length, *x.shape), x.dtype), jnp.full((length,), jnp.inf, x.dtype))


def lagrange(places: Array, points: Array) -> Array:
  """The polynomials that are 1 at one of places [N] and 0 at the others, evaluated at points [Q]: [N, Q].

  Places at infinity are ignored: their rows are zero and the others' degree is lower, as a method's first steps need.
  Of equal places only the first counts, which is the latest in time.
  """
  twice = jnp.tril(places[:, None] == places[None], -1).any(1)
  there = jnp.isfinite(places) & ~twice
  others = there[:, None] & there[None] & ~jnp.eye(places.shape[0], dtype=bool)
  gaps = jnp.where(others, places[:, None] - places[None], 1)
  factors = jnp.where(others[..., None], (points[None] - places[:, None])[None] / gaps[..., None], 1)
  return jnp.where(there[:, None], factors.prod(1), 0)


def quadrature(start: Array, end: Array) -> tuple[Array, Array]:
  """Gauss-Legendre points [16] and weights [16] for an integral from start to end."""
  half = (end - start) / 2
  return (start + end) / 2 + half * jnp.asarray(POINTS, half.dtype), half * jnp.asarray(POINT_WEIGHTS, half.dtype)


def integrals(places: Array, start: Array, end: Array) -> Array:
  """Integrals [N] from start to end of `lagrange(places)`."""
  points, weights = quadrature(start, end)
  return (lagrange(places, points) * weights[None]).sum(1)


def step(x0: Array, x: Array, sigma: Array, sigma_next: Array, past: History, weights: Array) -> Array:
  """x + sum_j weights_j * eps_j, for weights [N] that sum to sigma_next - sigma, and past eps, latest first.

  Written as differences from the latest eps = (x - x0) / sigma, so that nothing cancels at large sigma.
  """
  differences = past.values - past.values[:1]
  return x0 + sigma_next / sigma * (x - x0) + (expand(weights, differences) * differences).sum(0)
