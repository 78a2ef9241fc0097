import jax.numpy as jnp

from diffjax import struct
from diffjax.arrays import expand, shortening, squared_norm, wide
from diffjax.checks import check_in
from diffjax.guidance.stacking import like, stacked
from diffjax.typing import Array, Cond, Denoiser, PyTree


@struct.dataclass
class AdaptiveProjected:
  """Adaptive projected guidance (Sadat et al. 2024): classifier-free guidance that does not oversaturate.

  The difference of the two predictions is shortened to a norm of at most `radius`, then its part along the conditional
  x0, which raises saturation, is multiplied by eta. Norms are per sample. One network call on the doubled batch. The
  paper's third part, a momentum over steps, is `samplers.Momentum` around the sampler: a denoiser remembers nothing.

  Attributes:
    denoiser: the conditional denoiser.
    null_cond: what stands for "no condition", with or without the leading [B].
    scale: as in `ClassifierFree`; [] or [B].
    radius: longest norm of the difference, over all of a sample; it depends on the size of the data.
    eta: weight of the parallel part; 0 drops it, and 1 with an infinite radius is classifier-free guidance.
  """

  denoiser: Denoiser
  null_cond: PyTree
  scale: float = 1.0
  radius: float = float("inf")
  eta: float = 0.0

  def __post_init__(self):
    check_in("(-inf, inf)", scale=self.scale, eta=self.eta)
    check_in("(0, inf]", radius=self.radius)

  def __call__(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Array:
    """x0 [B, ...] at x [B, ...], sigma [] or [B]; raises ValueError if cond and null_cond differ in structure."""
    return self.x0_and_difference(x, sigma, cond, key=key)[0]

  def x0_and_difference(
    self, x: Array, sigma: Array, cond: Cond = None, past: Array | float = 0.0, *, key: Array | None = None
  ) -> tuple[Array, Array]:
    """The guided x0 with `past` [B, ...] added to the difference of the predictions, and that sum."""
    return self._guide(*self._both(self.denoiser, x, sigma, cond, key), past)

  def x0_and_shift(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> tuple[Array, Array]:
    """The unconditional x0, and what guidance adds to it."""
    conditional, null = self._both(self.denoiser, x, sigma, cond, key)
    return null, self._guide(conditional, null)[0] - null

  @property
  def x0_and_variance(self):
    """As `__call__`, with the conditional variance's place beside x0; only there if the denoiser has it."""
    predict = self.denoiser.x0_and_variance

    def guided(x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None):
      both, fraction = self._both(predict, x, sigma, cond, key)
      return self._guide(*both)[0], None if fraction is None else fraction[0]

    return guided

  def _both(self, predict, x, sigma, cond, key):
    return stacked(predict, x, sigma, [cond, like(self.null_cond, cond)], key)

  def _guide(self, conditional, null, past=0.0):
    dtype = conditional.dtype
    conditional, null = wide(conditional), wide(null)
    total = conditional - null + past
    difference = total * shortening(jnp.sqrt(_square(total)), self.radius)
    parallel = (
      (difference * conditional).sum(tuple(range(1, conditional.ndim)), keepdims=True)
      / _square(conditional)
      * conditional
    )
    guided = conditional + expand(self.scale - 1, conditional) * (difference + (self.eta - 1) * parallel)
    return guided.astype(dtype), total


def _square(x):
  # neither the root of zero nor its inverse has a gradient
  return jnp.maximum(squared_norm(x), 1e-12)
