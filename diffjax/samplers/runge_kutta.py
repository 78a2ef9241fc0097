"""Explicit Runge-Kutta methods in the time t = sigma / (1 + sigma) of a straight flow.

z = x / (1 + sigma) obeys dz/dt = noise - x0 (Lipman et al. 2022, eq. 23): a line wherever x0 does not change, bounded
however large sigma is, and smooth down to the data. In sigma, log sigma or 1 / sigma the same methods have larger
errors.
"""

from collections.abc import Sequence

from diffjax.arrays import expand
from diffjax.typing import Array, Denoiser

Tableau = tuple[tuple[float, ...], ...]
"""Row i holds the weights of slopes 0..i for the position of slope i + 1; the last row, those for the result."""


def slopes(
  denoiser: Denoiser, x: Array, sigma: Array, sigma_next: Array, tableau: Tableau, keys: Sequence[Array], first: Array
) -> tuple[Array, list[Array]]:
  """One step from x [B, ...] at sigma to sigma_next, both [] or [B], starting with the slope `first`.

  Returns x at the tableau's last position and all slopes dz/dt, including `first`. Makes one network call per key, at
  the rows' positions in order.
  """
  (t, scale), (t_next, scale_next) = flow_time(sigma), flow_time(sigma_next)
  taken = [first]
  for i, row in enumerate(tableau):
    node = sum(row)
    scale_node = scale + node * (scale_next - scale)  # not 1 - t, which cancels at large sigma
    sigma_node = (t + node * (t_next - t)) / scale_node
    move = sum(weight * slope for weight, slope in zip(row, taken) if weight)
    moved = (expand(scale, x) * x + expand(t_next - t, x) * move) / expand(scale_node, x)
    if i < len(keys):
      taken.append(slope(denoiser, moved, sigma_node, keys[i]))
  return moved, taken


def slope(denoiser: Denoiser, x: Array, sigma: Array, key: Array) -> Array:
  """dz/dt = noise - x0 [B, ...] at x [B, ...] and sigma [] or [B]. One network call."""
  x0 = denoiser(x, sigma, key=key)
  return (x - x0) / expand(sigma, x) - x0


def flow_time(sigma: Array) -> tuple[Array, Array]:
  """(t, 1 - t); the latter is the scale of x0 in z."""
  scale = 1 / (1 + sigma)
  return scale * sigma, scale
