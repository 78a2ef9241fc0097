"""The sampling loop, compiled once for any denoiser, sampler and grid."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffjax import arrays, randomness
from diffjax.checks import check_call, check_sampler
from diffjax.denoised import Predicting, predict
from diffjax.grids import check_grid, stop_at
from diffjax.typing import Array, Cond, Denoiser, PyTree, Sampler


def sample(
  denoiser: Denoiser,
  sampler: Sampler,
  x: Array,
  sigmas: Array,
  *,
  key: Array,
  cond: Cond = None,
  final_sigma: float = 0.0,
  trajectory: bool = False,
  carry: bool = False,
  callback: Callable[[int], None] | None = None,
) -> Any:
  """Draws x0 by stepping down a grid of noise levels; the last step, to zero, is a plain denoiser call.

  All arithmetic is in the precision of x, at least float32, whatever the denoiser computes in. Denoisers and samplers
  are pytrees: under `jax.jit(sample)` a new guidance scale, eta, churn or key reuses the compiled program. A plain
  function is not a pytree, and as an argument it fails inside JAX: pass `jax.tree_util.Partial(function)` with a
  function that is defined once, or jit a function that closes over the denoiser.

  Args:
    denoiser: (x, sigma, cond, key=keys) -> x0.
    sampler: one of `diffjax.samplers`, or any object with `init` and `step`.
    x: [B, ...] at noise level sigmas[0]; pure noise is sigmas[0] * normal.
    sigmas: [N + 1], descending, ending in 0, such as from `diffjax.grids`.
    key: one key, from which each sample gets its own, or one key per sample, [B].
    cond: passed to every denoiser call.
    final_sigma: the level to stop at, a Python number. If above zero, x at that level, x0 + final_sigma * noise, is
      returned, every step is the sampler's, and under jit sigmas must end at that level.
    trajectory: also return x after each step.
    carry: also return the sampler's final carry, such as the network calls that `samplers.Adaptive` counts.
    callback: called on the host with the number of completed steps, for progress.

  Returns:
    x0 [B, ...]; with `trajectory` also the path [N + 1, B, ...] from x to x0; with `carry` also the final carry.

  Raises:
    ValueError: if the grid is not one list of finite levels that descend to zero (not checked under jit), or another
      argument, or the denoiser's output, is not as described.
    TypeError: if the denoiser cannot be called with these arguments.

  Example:
    >>> import jax, diffjax
    >>> from diffjax.arrays import expand
    >>> prior = lambda x, sigma, cond=None, *, key=None: x / (1 + expand(sigma, x) ** 2)  # the data is N(0, 1)
    >>> sigmas = diffjax.grids.karras(10)
    >>> x = sigmas[0] * jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    >>> diffjax.sample(prior, diffjax.samplers.Heun(), x, sigmas, key=jax.random.key(1)).shape
    (4, 8, 8, 1)
  """
  if not hasattr(x, "dtype") or x.ndim == 0:
    given = getattr(x, "shape", type(x).__name__)
    raise ValueError(
      f"x must be an array [B, ...], got {given}; pass sigmas[0] * jax.random.normal(key, shape), for example."
    )
  check_sampler(sampler)
  check_call("denoiser", denoiser, "x, sigma, cond, key=keys")
  keys = randomness.sample_keys(key, x.shape[0])
  dtype = jnp.promote_types(jnp.result_type(x), jnp.float32)
  if final_sigma:
    sigmas = stop_at(sigmas, final_sigma)
  check_grid(sigmas, dtype, final_sigma)
  x, sigmas = jnp.asarray(x, dtype), jnp.asarray(sigmas, dtype)
  num_steps = sigmas.shape[0] - 1

  def predicted(x, sigma, _, key, **more):
    denoised = predict(denoiser, x, sigma, cond, key=key, **more)
    shape = getattr(denoised.x0, "shape", type(denoised.x0).__name__)
    if shape != x.shape:
      raise ValueError(f"the denoiser returned x0 {shape} for x {x.shape}; return an array of x's shape.")
    return dataclasses.replace(denoised, x0=denoised.x0.astype(dtype))

  conditioned = Predicting(predicted)

  def body(state, levels):
    x, past = state
    step, sigma, sigma_next = levels
    stepped = sampler.step(conditioned, x, sigma, sigma_next, past, randomness.fold_in(keys, step))
    x, past = arrays.cast_like((x, past), stepped)
    if callback is not None:
      jax.debug.callback(callback, step + 1)
    return (x, past), x if trajectory else None

  start: tuple[Array, PyTree] = (x, sampler.init(x))
  steps = num_steps if final_sigma else num_steps - 1
  (last, past), path = jax.lax.scan(body, start, (jnp.arange(steps), sigmas[:steps], sigmas[1 : steps + 1]))
  path = [x[None], path]
  if not final_sigma:
    last = conditioned(last, sigmas[-2], key=randomness.fold_in(keys, num_steps - 1))
    path.append(last[None])
    if callback is not None:
      jax.debug.callback(callback, num_steps)
  others = [jnp.concatenate(path)] if trajectory else []
  others += [past] if carry else []
  return (last, *others) if others else last
