"""The likelihood of data under a model: exact, by the probability-flow ODE, or its variational bound.

In log sigma the ODE is dx = x - x0(x, sigma), so log density changes by the trace of x0's Jacobian minus the number of
dimensions d, and the second term has a closed form:

    log p(x) = -|x_max|^2 / (2 sigma_max^2) - d / 2 log(2 pi) - d log sigma_min - integral of trace(dx0/dx) dlog sigma
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from diffjax import losses, posterior, randomness, struct
from diffjax.denoised import predict
from diffjax.randomness import alone
from diffjax.schedules import Schedule
from diffjax.typing import Array, Cond, Denoiser, NoiseFn

HALF_RANGE = 127.5
"""Grey levels, of 0..255, per unit of [-1, 1]."""


def log_likelihood(
  denoiser: Denoiser,
  x: Array,
  sigmas: Array,
  *,
  cond: Cond = None,
  key: Array | None = None,
  num_probes: int | None = None,
) -> Array:
  """Log density in nats of data at noise level sigmas[0], by the probability-flow ODE (Song et al. 2020, D.2).

  The ODE is integrated up the grid by the classic fourth-order Runge-Kutta method in log sigma: four calls per step.
  Without `num_probes` the trace is exact, and each call takes d backward passes; with it, the trace is the mean over
  that many Rademacher probes, fixed along the path, one backward pass each (Grathwohl et al. 2018, FFJORD, 3.1).

  Args:
    denoiser: (x, sigma, cond, key=None) -> x0.
    x: [B, ...].
    sigmas: [N], ascending, above zero: `grid[-2::-1]` of any grid in `diffjax.grids`. At the last level x is assumed
      to follow N(0, sigma^2), so sigma must be large enough to drown the data.
    cond: passed to every denoiser call.
    key: for the probes: one key, from which each sample gets its own, or one per sample.
    num_probes: the number of probes; None for the exact trace.

  Returns:
    [B].

  Raises:
    ValueError: if the grid does not ascend from above zero (not checked under jit), or num_probes is given without a
      key or below 1.
  """
  dtype = jnp.promote_types(jnp.result_type(x), jnp.float32)
  _check_ascending(sigmas, dtype)
  x, log_sigmas = jnp.asarray(x, dtype), jnp.log(jnp.asarray(sigmas, dtype))
  directions = _directions(x, key, num_probes)

  def slope(state, log_sigma):
    sigma = jnp.exp(log_sigma)
    scale = jnp.sqrt(1 + jnp.square(sigma))
    x = scale * state[0]
    x0, trace = _with_trace(lambda x: denoiser(x, sigma, cond).astype(dtype), x, directions)
    return (x / jnp.square(scale) - x0) / scale, trace

  def body(state, levels):
    return _runge_kutta(slope, state, *levels), None

  # integrates y = x / sqrt(1 + sigma^2), which changes little at both ends; x and x / sigma do so at one end only
  start = x / jnp.sqrt(1 + jnp.exp(2 * log_sigmas[0])), jnp.zeros(x.shape[0], dtype)
  (y, integral), _ = jax.lax.scan(body, start, (log_sigmas[:-1], jnp.diff(log_sigmas)))
  noise = (y * jnp.sqrt(1 + jnp.exp(-2 * log_sigmas[-1]))).reshape(x.shape[0], -1)
  constant = noise.shape[1] * (log_sigmas[0] + math.log(2 * math.pi) / 2)
  return -jnp.square(noise).sum(1) / 2 - constant - integral


def _runge_kutta(slope, state, time, h):
  """One classic Runge-Kutta step; the four stages are a loop, so that the network is compiled once."""
  move = lambda change, share: jax.tree.map(lambda s, c: s + share * h * c, state, change)

  def stage(carry, shares):
    change, mean = carry
    before, weight = shares
    change = slope(move(change, before), time + before * h)
    return (change, jax.tree.map(lambda m, c: m + weight * c, mean, change)), None

  none = jax.tree.map(jnp.zeros_like, state)
  shares = jnp.array([[0, 1 / 2, 1 / 2, 1], [1 / 6, 1 / 3, 1 / 3, 1 / 6]], time.dtype)
  return move(jax.lax.scan(stage, (none, none), tuple(shares))[0][1], 1)


def _directions(x, key, num_probes):
  """[K, B or 1, ...] such that the sum of v^T J v over the first axis is, or estimates, the trace of J."""
  if num_probes is None:
    size = math.prod(x.shape[1:])
    return jnp.eye(size, dtype=x.dtype).reshape(size, 1, *x.shape[1:])
  if num_probes < 1 or key is None:
    raise ValueError(f"num_probes is {num_probes}, but must be at least 1, with a key; pass None for the exact trace.")
  draw = lambda key: jax.random.rademacher(key, (num_probes, *x.shape[1:]), x.dtype)
  return jax.vmap(alone(draw), out_axes=1)(randomness.sample_keys(key, x.shape[0])) / math.sqrt(num_probes)


def _with_trace(predict, x, directions):
  # reverse mode only: layers with custom gradients have no forward mode
  x0, pull_back = jax.vjp(predict, x)
  product = lambda v: (pull_back(jnp.broadcast_to(v, x.shape))[0] * v).reshape(x.shape[0], -1).sum(1)
  return x0, jax.lax.map(product, directions, batch_size=64).sum(0)


def _check_ascending(sigmas, dtype):
  if jnp.ndim(sigmas) != 1 or jnp.shape(sigmas)[0] < 2:
    raise ValueError(
      f"sigmas must be a list of at least two levels, got shape {jnp.shape(sigmas)}; use grid[-2::-1] of a grid."
    )
  if isinstance(sigmas, Tracer):
    return
  values = np.asarray(jnp.asarray(sigmas, dtype))  # levels that differ in a wider dtype may round to one
  if not (values[0] > 0 and np.all(np.diff(values) > 0) and np.isfinite(values[-1])):
    raise ValueError(
      f"sigmas must ascend strictly from above zero, got {values} in {values.dtype}; use grid[-2::-1] of a grid."
    )


def dequantize(images: Array, key: Array) -> Array:
  """uint8 0..255 [B, ...] -> float in [-1, 1] plus uniform noise one grey level wide (Theis et al. 2015, 3.1).

  `key` is one key, or one per sample. The mean log density of the result is a lower bound on the log probability of
  the grey levels.
  """
  keys = randomness.sample_keys(key, images.shape[0])
  draw = lambda key: jax.random.uniform(key, images.shape[1:], minval=-0.5, maxval=0.5)
  noise = jax.vmap(alone(draw))(keys)
  return (images.astype(noise.dtype) + noise) / HALF_RANGE - 1


def bits_per_dim(log_likelihood: Array, num_dims: int) -> Array:
  """Bits per dimension of `num_dims` 8-bit numbers, from the log density in nats of data scaled to [-1, 1]."""
  return (math.log(HALF_RANGE) - log_likelihood / num_dims) / math.log(2)


@struct.dataclass
class Bound:
  """The variational bound in bits per dimension, and its parts (Ho et al. 2020, eq. 5).

  Attributes:
    prior: [B], L_T.
    steps: [T - 1, B], the terms L_1 to L_{T-1}, cleanest first.
    reconstruction: [B], L_0.
  """

  prior: Array
  steps: Array
  reconstruction: Array

  @property
  def total(self) -> Array:
    """[B], the sum of all parts."""
    return self.prior + self.steps.sum(0) + self.reconstruction


def variational_bound(
  denoiser: Denoiser,
  schedule: Schedule,
  x0: Array,
  *,
  key: Array,
  cond: Cond = None,
  fraction: float = 0.0,
  noise: NoiseFn = randomness.normal,
) -> Bound:
  """The variational bound in bits per dimension over all T steps of a discrete schedule, with T denoiser calls.

  The parts and the last step's variance follow Nichol & Dhariwal 2021: pixels are decoded with the second step's
  posterior variance or, if the variance is learned, between that and the first step's larger one. The paper clips
  predictions to [-1, 1]; wrap the denoiser in `guidance.StaticThreshold` to do the same.

  Args:
    denoiser: (x, sigma, cond, key=None) -> x0; its learned variance is used if it has one.
    schedule: discrete, of at least two steps.
    x0: 8-bit pixels scaled to [-1, 1], [B, ...].
    key: one key, or one per sample; each sample and step has its own noise.
    cond: passed to every denoiser call.
    fraction: the variance, from the posterior's (0) to the larger one (1), if it is not learned.
    noise: (keys [B], shape) -> standard normal noise.

  Raises:
    ValueError: if the schedule is not discrete or has only one step.
  """
  if (schedule.num_steps or 0) < 2:
    raise ValueError("variational_bound needs a discrete schedule of two steps or more; see schedules.discretize.")
  x0 = jnp.asarray(x0, jnp.promote_types(jnp.result_type(x0), jnp.float32))  # 16 bits cannot resolve the levels
  keys = randomness.sample_keys(key, x0.shape[0])
  sigmas = schedule.sigma(jnp.arange(schedule.num_steps, dtype=x0.dtype)).astype(x0.dtype)

  def predicted_at(step):
    sigma = sigmas[step]
    x = x0 + sigma * noise(randomness.fold_in(keys, step), x0.shape).astype(x0.dtype)
    known = predict(denoiser, x, sigma, cond)
    return x, known.x0, known.variance

  def term(step):
    x, predicted, learned = predicted_at(step)
    share = fraction if learned is None else learned
    return losses.variational_bound(x0, x, predicted, share, sigmas[step], sigmas[step - 1], schedule)

  def reconstruction():
    x, predicted, learned = predicted_at(0)
    share = 0.0 if learned is None else learned
    return losses.variational_bound(x0, x, predicted, share, sigmas[0], jnp.zeros_like(sigmas[0]), schedule)

  in_bits = lambda nats: losses.mean_flat(nats) / math.log(2)
  return Bound(
    # the prior N(0, 1) of variance-preserving x_t, in x = x_t / alpha
    prior=in_bits(posterior.normal_kl(x0, 2 * jnp.log(sigmas[-1]), 0.0, jnp.log1p(jnp.square(sigmas[-1])))),
    steps=jax.lax.map(term, jnp.arange(1, schedule.num_steps)),
    reconstruction=reconstruction(),
  )
