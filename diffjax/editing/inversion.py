import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from diffjax import arrays, randomness
from diffjax.checks import check_call, check_sampler
from diffjax.grids import check_grid, karras
from diffjax.typing import Array, Cond, Denoiser, Sampler


def ddim_invert(denoiser: Denoiser, x0: Array, sigmas: Array, *, cond: Cond = None) -> Array:
  """The noise from which DDIM draws x0, to first order: each step up uses the noise predicted at its start.

  This is DDIM's step backwards (Song et al. 2020, Denoising Diffusion Implicit Models, section 5.4). The network is
  evaluated at the upper level, so that no call is at sigma = 0, on x rescaled to the variance that N(0, 1) data has at
  that level: the variance-preserving x is unchanged, as in diffusers' DDIMInverseScheduler. N denoiser calls.

  Args:
    denoiser: (x, sigma, cond, key=None) -> x0.
    x0: [B, ...].
    sigmas: [N + 1], the grid to draw with, descending to zero.
    cond: passed to every denoiser call.

  Returns:
    x [B, ...] at sigmas[0].

  Raises:
    ValueError: as in `diffjax.sample`.
  """
  x0, sigmas = _prepare(x0, sigmas)

  def up(x, levels):
    sigma, sigma_next = levels
    seen = x * jnp.sqrt((1 + sigma**2) / (1 + sigma_next**2))
    return x + (1 - sigma_next / sigma) * (seen - denoiser(seen, sigma, cond).astype(x.dtype)), None

  return jax.lax.scan(up, x0, (sigmas[:-1], sigmas[1:]), reverse=True)[0]


def invert(
  denoiser: Denoiser,
  sampler: Sampler,
  x0: Array,
  sigmas: Array,
  *,
  cond: Cond = None,
  iterations: int = 20,
) -> tuple[Array, Array]:
  """The x at sigmas[0] from which a deterministic one-step sampler draws x0, with each step solved by iteration.

  Follows the fixed-point iteration of Pan et al. 2023 (Effective real image editing with accelerated iterative
  diffusion inversion) for DDIM, but for any method. Instead of their acceleration, each update is divided by the slope
  that the step has for N(0, 1) data, which long steps need.

  Args:
    denoiser: (x, sigma, cond, key=keys) -> x0.
    sampler: `samplers.Euler()`, which is DDIM, or another that neither draws noise nor remembers earlier steps.
    x0: [B, ...]; must be a sample that the model can draw, or close to one.
    sigmas: [N + 1], the grid to draw with, descending to zero.
    cond: passed to every denoiser call.
    iterations: iterations for each of the N steps.

  Returns:
    (x [B, ...] at sigmas[0], residual [B]). The residual is the largest distance by which any step misses its end
    point, divided by 1 + sigma there; if it is not small, x0 or the steps are too far from what the model draws.

  Raises:
    ValueError: if the sampler draws noise or remembers earlier steps, and as in `diffjax.sample`. Under jit, traced
      hyper-parameters such as eta may turn noise on; x is then NaN and the residual infinite.
  """
  x0, sigmas = _prepare(x0, sigmas)
  if iterations < 1:
    raise ValueError(f"iterations is {iterations}, but must be at least 1; raise it.")
  check_call("denoiser", denoiser, "x, sigma, cond, key=keys")
  draws_noise = _check_invertible(sampler, sigmas)
  keys = randomness.sample_keys(jax.random.key(0), x0.shape[0])  # a deterministic step does not use them

  def bound(x, sigma, cond=cond, *, key=None):
    return denoiser(x, sigma, cond, key=key).astype(x0.dtype)

  def solve(step, end, sigma, sigma_next):
    slope = jnp.sqrt((1 + sigma_next**2) / (1 + sigma**2))

    def improve(x, _):
      missing = end - step(x)
      missed = jnp.abs(missing).reshape(x.shape[0], -1).max(1) / (1 + sigma_next)
      return x + missing / slope, missed

    x, missed = jax.lax.scan(improve, end / slope, length=iterations)
    return x, missed[-1]

  def up(x, levels):
    sigma, sigma_next = levels
    step = lambda x: sampler.step(bound, x, sigma, sigma_next, (), keys)[0].astype(x.dtype)
    return solve(step, x, sigma, sigma_next)

  x, last = solve(lambda x: bound(x, sigmas[-2], key=keys), x0, sigmas[-2], sigmas[-1])
  x, missed = jax.lax.scan(up, x, (sigmas[:-2], sigmas[1:-1]), reverse=True)
  residual = jnp.maximum(last, missed.max(0, initial=0))
  return jnp.where(draws_noise, jnp.nan, x), jnp.where(draws_noise, jnp.inf, residual)


def _prepare(x0, sigmas):
  dtype = jnp.promote_types(jnp.result_type(x0), jnp.float32)
  check_grid(sigmas, dtype)
  return jnp.asarray(x0, dtype), jnp.asarray(sigmas, dtype)


def _check_invertible(sampler, sigmas):
  check_sampler(sampler)
  name = type(sampler).__name__
  if jax.tree.leaves(sampler.init(jnp.zeros((1, 1)))):
    raise ValueError(f"{name} remembers earlier steps and cannot be inverted; use a one-step method such as Euler.")
  hidden = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((sampler, sigmas)))
  with jax.ensure_compile_time_eval():
    # if hyper-parameters are traced, assume that a sampler that draws noise with all of them zero always does
    zero = lambda leaf: np.zeros(np.shape(leaf), jnp.result_type(leaf))
    known = (jax.tree.map(zero, sampler), karras(9, 0.01)) if hidden else (sampler, sigmas)
    if _draws_noise(*known):
      raise ValueError(
        f"{name} draws noise and cannot be inverted; use a deterministic method such as Euler with eta=0."
      )
  return _draws_noise(sampler, sigmas) if hidden else False


def _draws_noise(sampler, sigmas):
  # the same x with two keys: only a method that draws noise gives different results
  x = jnp.ones((2, 1), sigmas.dtype)
  prior = lambda x, sigma, *, key=None: x / (1 + arrays.expand(sigma, x) ** 2)
  keys = jax.random.split(jax.random.key(0))
  step = lambda sigma, sigma_next: sampler.step(prior, x, sigma, sigma_next, (), keys)[0]
  first, second = jnp.moveaxis(jax.jit(jax.vmap(step))(sigmas[:-2], sigmas[1:-1]), 1, 0)
  return ~jnp.array_equal(first, second, equal_nan=True)
