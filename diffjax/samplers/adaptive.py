import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffjax import arrays, randomness, struct
from diffjax.arrays import expand
from diffjax.checks import check_call, check_in, check_integer
from diffjax.grids import check_grid
from diffjax.samplers.loops import while_loop
from diffjax.samplers.runge_kutta import flow_time, slope, slopes
from diffjax.samplers.step_checks import check_above_zero, check_downward
from diffjax.typing import Array, ArrayLike, Cond, Denoiser

TABLEAU = (
  (1 / 5,),
  (3 / 40, 9 / 40),
  (44 / 45, -56 / 15, 32 / 9),
  (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
  (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
  (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
"""Weights of order 5 minus those of order 4."""


class Progress(NamedTuple):
  """Per sample [B]: the length of the next step to try, in flow time, and the network calls so far."""

  h: Array
  calls: Array


class Attempt(NamedTuple):
  x: Array
  sigma: Array
  sigma_next: Array
  first: Array
  progress: Progress


@struct.dataclass
class Adaptive:
  """Dormand & Prince 1980, RK5(4)7M, with steps as long as a tolerance allows, like "RK45" in Song et al. 2020.

      k_i = f(t + c_i h, y + h sum_{j < i} a_ij k_j),  y_next = y + h sum_i b_i k_i,  error = h sum_i (b_i - b'_i) k_i

  with b of order 5 and b' of order 4. Each sample moves from one grid level to the next in steps of its own length, so
  the result does not depend on the rest of the batch. A step is accepted if the root mean square of error /
  (atol + rtol * |z|) is at most 1, where z = x / (1 + sigma) has the scale of the data, as in `samplers.runge_kutta`.
  The grid needs only two levels above zero; more levels cost more calls. The carry counts calls: one per level, six
  per attempt; `solve` returns the count. A sample that needs more than `max_steps` attempts between two levels becomes
  NaN; memory for a gradient grows with max_steps.
  """

  rtol: float = 1e-5
  atol: float = 1e-5
  max_steps: int = struct.field(pytree_node=False, default=100)

  def __post_init__(self):
    check_in("[0, inf)", rtol=self.rtol, atol=self.atol)
    if isinstance(self.rtol, numbers.Real) and isinstance(self.atol, numbers.Real) and not self.rtol + self.atol > 0:
      raise ValueError("rtol and atol are both 0, but every step has some error; set at least one above 0.")
    check_integer(1, max_steps=self.max_steps)

  def init(self, x):
    return Progress(jnp.full(x.shape[:1], 0.05, x.dtype), jnp.zeros(x.shape[:1], jnp.int32))

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    check_above_zero(self, sigma_next)
    check_downward(self, sigma, sigma_next)
    sigma, sigma_next = (jnp.broadcast_to(level, x.shape[:1]).astype(x.dtype) for level in (sigma, sigma_next))
    # One key for all calls: a stochastic denoiser must be one fixed function here, or the error estimate never falls
    first = slope(denoiser, x, sigma, key)
    start = Attempt(x, sigma, sigma_next, first, carry._replace(calls=carry.calls + 1))
    attempt = lambda now: self._attempt(denoiser, now, key)
    end = while_loop(lambda now: jnp.any(now.sigma > now.sigma_next), attempt, start, self.max_steps)
    return jnp.where(expand(end.sigma > sigma_next, x), jnp.nan, end.x), end.progress

  def _attempt(self, denoiser, now, key):
    x, sigma, sigma_next, first, (h, calls) = now
    (t, scale), (t_next, _) = flow_time(sigma), flow_time(sigma_next)
    last = h >= t - t_next
    target = jnp.where(last, sigma_next, (t - h) / (scale + h))
    moved, taken = slopes(denoiser, x, sigma, target, TABLEAU, [key] * len(TABLEAU), first)

    length = jnp.where(last, t - t_next, h)
    excess = jax.lax.stop_gradient(self._excess(x, sigma, moved, target, length, taken))
    accept = (sigma > sigma_next) & (excess <= 1)
    proposed = length * jnp.clip(0.9 * jnp.maximum(excess, 1e-10) ** (-1 / 5), 0.2, 5.0)
    proposed = jnp.where(
      last & accept, jnp.maximum(h, proposed), proposed
    )  # the grid cut the step short, not the error
    progress = Progress(
      jnp.where(sigma > sigma_next, jax.lax.stop_gradient(proposed), h),
      calls + len(TABLEAU) * (sigma > sigma_next),
    )
    keep = lambda new, old: jnp.where(expand(accept, new), new, old)
    return Attempt(keep(moved, x), keep(target, sigma), sigma_next, keep(taken[-1], first), progress)

  def _excess(self, x, sigma, moved, target, length, taken):
    """Error of each sample [B], in units of the tolerance."""
    error = expand(length, x) * sum(weight * slope for weight, slope in zip(ERROR, taken) if weight)
    z, z_moved = (expand(flow_time(level)[1], x) * x for x, level in ((x, sigma), (moved, target)))
    tolerance = self.atol + self.rtol * jnp.maximum(jnp.abs(z), jnp.abs(z_moved))
    return jnp.sqrt(jnp.mean(jnp.square(error / tolerance), range(1, x.ndim)))


def solve(
  denoiser: Denoiser,
  x: Array,
  sigma: ArrayLike,
  sigma_next: ArrayLike,
  *,
  key: Array,
  cond: Cond = None,
  sampler: Adaptive | None = None,
) -> tuple[Array, Array]:
  """Draws x0 with `Adaptive`, without a grid, and counts the network calls.

  Args:
    denoiser: (x, sigma, cond, key=keys) -> x0.
    x: [B, ...] at noise level sigma; pure noise is sigma * normal.
    sigma: [], the first level.
    sigma_next: [], the last level above zero; the step from there to zero is a plain denoiser call.
    key: one key, from which each sample gets its own, or one key per sample, [B].
    cond: passed to every denoiser call.
    sampler: default Adaptive().

  Returns:
    x0 [B, ...] and the number of network calls of each sample, int32 [B].

  Raises:
    ValueError: unless sigma > sigma_next > 0, both finite (not checked under jit).
  """
  check_call("denoiser", denoiser, "x, sigma, cond, key=keys")
  x = arrays.upcast(jnp.asarray(x))
  check_grid(jnp.stack([jnp.asarray(sigma, x.dtype), jnp.asarray(sigma_next, x.dtype), jnp.zeros((), x.dtype)]))
  sampler = Adaptive() if sampler is None else sampler
  conditioned = lambda x, sigma, *, key=None: denoiser(x, sigma, cond, key=key).astype(x.dtype)
  key_path, key_last = randomness.split(randomness.sample_keys(key, x.shape[0]))
  x, (_, calls) = sampler.step(conditioned, x, jnp.asarray(sigma), jnp.asarray(sigma_next), sampler.init(x), key_path)
  return conditioned(x, jnp.asarray(sigma_next, x.dtype), key=key_last), calls + 1
