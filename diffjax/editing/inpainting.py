import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import arrays, randomness, struct
from diffjax.denoised import Denoised, Predictor, predict
from diffjax.typing import Array, Cond, Denoiser, NoiseFn, Sampler


def hole(known: Array | np.ndarray, mask: Array | np.ndarray) -> Array | np.ndarray:
  """`known` where it is kept, zero elsewhere; an inpainting starts from this plus sigmas[0] * noise."""
  return known * (1 - mask)


@struct.dataclass
class Inpaint(Predictor):
  """A denoiser with part of the image known: x0 = mask * x0 + (1 - mask) * known.

  Started from `hole(known, mask) + sigmas[0] * noise`, every sampler keeps the known part at known + sigma * noise: the
  replacement method (Song et al. 2020, appendix I.2). There each level's noise is drawn afresh; here it is the
  sampler's: constant along the path for an ODE, from the posterior q(x_next | x, known) for a stochastic method. The
  distribution at each level is the same, and multistep methods see no jumps.

  Attributes:
    denoiser: a denoiser of whole images.
    known: [B or 1, ...]; its values where the mask is 1 do not matter.
    mask: of known's shape or broadcastable to it, 1 where to generate, 0 where to keep.
  """

  denoiser: Denoiser
  known: Array | np.ndarray
  mask: Array | np.ndarray

  def predict(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Denoised:
    """The denoiser's prediction with the known part inserted, in the guided and the unguided x0."""
    own = predict(self.denoiser, x, sigma, cond, key=key)
    unguided = None if own.unguided is None else self._replace(own.unguided)
    return dataclasses.replace(own, x0=self._replace(own.x0), unguided=unguided)

  def _replace(self, x0):
    return self.mask * x0 + (1 - self.mask) * self.known


@struct.dataclass
class RePaint:
  """A sampler that resamples parts of its path, so that new and known parts agree (Lugmayr et al. 2022, section 4.2).

  After every `jump` steps of `sampler`, noise takes x back up by as many levels and the steps are repeated,
  `resamples` times in all. With the denoiser in `Inpaint` and the sampler `DDPM` this is RePaint, except for the known
  part's noise (see `Inpaint`); jump 1 is its algorithm 1. A grid with at most `jump` levels above zero is traversed
  once.

  Attributes:
    sampler: any sampler; one that carries state is reinitialised after each jump.
    sigmas: the grid passed to `diffjax.sample`.
    jump: number of levels to jump up, the paper's j.
    resamples: how often each stretch is traversed, the paper's r.
    noise: (keys [B], shape) -> standard normal noise.
  """

  sampler: Sampler
  sigmas: Array
  jump: int = struct.field(pytree_node=False, default=10)
  resamples: int = struct.field(pytree_node=False, default=10)
  noise: NoiseFn = struct.field(pytree_node=False, default=randomness.normal)

  def __post_init__(self):
    if self.jump < 1 or self.resamples < 1:
      raise ValueError(
        f"jump is {self.jump} and resamples is {self.resamples}, but both must be at least 1; correct them."
      )

  def init(self, x):
    return self.sampler.init(x)

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    key_step, key_resample = randomness.split(key)
    sigmas = jnp.asarray(self.sigmas, x.dtype)
    stepped = self.sampler.step(denoiser, x, sigma, sigma_next, carry, key_step)
    x, carry = arrays.cast_like((x, carry), stepped)
    if self.resamples == 1 or self.jump > sigmas.shape[0] - 2:
      return x, carry
    place = jnp.argmin(jnp.abs(sigmas - sigma_next))
    stretch = jax.lax.dynamic_slice_in_dim(sigmas, place - self.jump, self.jump + 1)

    def down(state, levels):
      (x, carry), (number, sigma, sigma_next) = state, levels
      stepped = self.sampler.step(denoiser, x, sigma, sigma_next, carry, randomness.fold_in(key_resample, number))
      return arrays.cast_like(state, stepped), None

    def again(state, number):
      key_up = randomness.fold_in(key_resample, number)
      x = state[0] + jnp.sqrt(stretch[0] ** 2 - stretch[-1] ** 2) * self.noise(key_up, x_shape)
      numbers = self.resamples + number * self.jump + jnp.arange(self.jump)
      x = x.astype(sigmas.dtype)
      return jax.lax.scan(down, (x, self.sampler.init(x)), (numbers, stretch[:-1], stretch[1:]))[0], None

    x_shape = x.shape
    # stretches are counted from the clean end, as in the paper
    due = ((sigmas.shape[0] - 2 - place) % self.jump == 0) & (place >= self.jump)
    redo = lambda state: jax.lax.scan(again, state, jnp.arange(self.resamples - 1))[0]
    return jax.lax.cond(due, redo, lambda state: state, (x, carry))
