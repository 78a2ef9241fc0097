"""Energy guidance: the mechanism shared by all gradient-based guidance.

An energy(x0, key) -> [B] is low for good images, and guidance descends it, to sample p(x0) exp(-energy(x0)). At noise
level sigma the score becomes score - grad_x energy(denoiser(x)); with score = (x0 - x) / sigma^2 this means

    x0 - sigma^2 * grad_x energy(denoiser(x))

which is exact if the energy is linear over the posterior of x0; otherwise the error is that of this linearisation.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from diffjax import arrays, randomness, struct
from diffjax.arrays import expand
from diffjax.checks import check_in, check_integer
from diffjax.denoised import Denoised, Predictor, predict
from diffjax.guidance.scales import Scale, at_level
from diffjax.typing import Array, Codec, Cond, Denoiser
from diffjax.warning import DiffjaxWarning

Energy = Callable[[Array, Array | None], Array]
"""(x0 [B, ...], keys [B] or None) -> [B]; a pytree if it has parameters. An energy that depends on the noise level has
a method `at(sigma)` that returns the energy at that level."""


@runtime_checkable
class LevelEnergy(Protocol):
  """An energy that depends on the noise level."""

  def at(self, sigma: Array) -> Energy: ...


POSITIONS = ("score", "mean", "x0")


def warn_nonfinite(count: int, sigma: float) -> None:
  """Warns that `count` gradients of a batch were not finite."""
  message = f"{count} gradients at sigma {sigma:.3g} were not finite and were set to zero in energy guidance."
  warnings.warn(message, DiffjaxWarning, stacklevel=1)


@struct.dataclass
class EnergyGuidance(Predictor):
  """Guides a denoiser down an energy; special cases are DPS, LGD, MPGD, FreeDoM, universal and training-free guidance.

  Each call costs one network call, one gradient of the energy (and inner_steps more), and, unless position is "x0",
  one gradient of the network. Norms and gradients are per sample. A sample's non-finite gradient is set to zero and
  reported; without `report` it is kept and shows in the image.

  Attributes:
    denoiser: the model.
    energy: low for good images; `energies` sums several, for one gradient.
    scale: a number [] or [B], or a function of sigma.
    position: where the gradient is taken, and what it moves.
      "score": with respect to x, through the denoiser; x0 moves by -scale * sigma^2 * gradient. Scale 1 is Bayes' rule.
      "mean": the same gradient, moving the mean of the sampler's step by -scale * gradient: use `samplers.MeanGuided`.
      "x0": with respect to x0, bypassing the denoiser, which is cheap; x0 moves by -scale * gradient.
      `samplers.MeanGuided` then keeps the unguided noise.
    normalize: whether to divide each gradient by its root mean square.
    clamp: largest root mean square of the move, a number or a function of sigma.
    blend: evaluate the energy at f * x0 + (1 - f) * x instead of x0, with x scaled to unit variance and f its share of
      noise; users of CLIP guidance found that images then move more freely. Ignored at position "x0".
    interval: (lowest, highest) sigma at which guidance acts.
    num_samples: averages exp(-energy) over this many x0 + r * noise, r = spread * sigma / sqrt(1 + sigma^2), the
      posterior's standard deviation for data of unit variance (Song et al. 2023, loss-guided diffusion). 0: x0 only.
    spread: see num_samples.
    inner_steps, inner_scale: steps of gradient descent on the energy, starting from x0 and bypassing the denoiser;
      inner_scale is like scale (Bansal et al. 2023, "backward").
    report: called on the host with (count, sigma) when gradients are not finite, which are then set to zero. None
      keeps them, and only then can the compiled program be cached on disk.
  """

  denoiser: Denoiser
  energy: Energy | LevelEnergy
  scale: Scale = 1.0
  position: str = struct.field(pytree_node=False, default="score")
  normalize: bool = struct.field(pytree_node=False, default=False)
  clamp: Scale = float("inf")
  interval: tuple[float, float] = (0.0, float("inf"))
  num_samples: int = struct.field(pytree_node=False, default=0)
  spread: float = 1.0
  inner_steps: int = struct.field(pytree_node=False, default=0)
  inner_scale: Scale = 0.0
  blend: bool = struct.field(pytree_node=False, default=False)
  report: Callable[[int, float], None] | None = struct.field(pytree_node=False, default=warn_nonfinite)

  def __post_init__(self):
    if self.position not in POSITIONS:
      raise ValueError(f"EnergyGuidance has no position {self.position!r}; choose one of {', '.join(POSITIONS)}.")
    check_in("(-inf, inf)", scale=self.scale, inner_scale=self.inner_scale)
    check_in("[0, inf)", spread=self.spread)
    check_in("[0, inf]", clamp=self.clamp)
    check_integer(0, num_samples=self.num_samples, inner_steps=self.inner_steps)

  def predict(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Denoised:
    """The guided x0, with the denoiser's unguided x0 and variance; key [B] if the energy or num_samples draw noise."""
    key_model, key_energy = (None, None) if key is None else randomness.split(key)
    predicted = lambda x: predict(self.denoiser, x, sigma, cond, key=key_model)
    slope = jax.grad(lambda x0: self._energy(x0, sigma, key_energy).sum())
    if self.position == "x0":
      own = predicted(x)
      gradient = slope(own.x0)
    else:

      def judged(x):
        own = predicted(x)
        return self._blend(own.x0, x, sigma), own

      picture, pullback, own = jax.vjp(judged, x, has_aux=True)
      (gradient,) = pullback(slope(picture))
    scale = at_level(self.scale, sigma) * (jnp.square(sigma) if self.position == "score" else 1)
    shift = -expand(scale, x) * self._cleaned(gradient, sigma)
    if self.inner_steps:
      rate = expand(at_level(self.inner_scale, sigma), x)
      down = lambda _, delta: delta - (rate * self._cleaned(slope(own.x0 + delta), sigma)).astype(delta.dtype)
      shift += jax.lax.fori_loop(0, self.inner_steps, down, jnp.zeros_like(own.x0))
    shift *= arrays.clip_factor(_rms(shift), expand(at_level(self.clamp, sigma), x))
    shift = jnp.where(expand(arrays.within(sigma, self.interval), x), shift, 0)
    return Denoised(own.x0 + shift, own.x0, own.variance)

  def _blend(self, x0, x, sigma):
    if not self.blend:
      return x0
    alpha = jax.lax.rsqrt(1 + jnp.square(sigma))
    f = expand(sigma * alpha, x)
    return f * x0 + (1 - f) * expand(alpha, x) * x

  def _energy(self, x0, sigma, key):
    energy = at(self.energy, sigma)
    if not self.num_samples:
      return energy(x0, key)
    if key is None:
      raise ValueError("energy guidance with num_samples draws noise; call the denoiser with one key per sample.")
    r = expand(self.spread * sigma * jax.lax.rsqrt(1 + jnp.square(sigma)), x0)

    def minus_energy(key):
      key_noise, key_energy = randomness.split(key)
      return -energy(x0 + r * randomness.normal(key_noise, x0.shape), key_energy)

    minus = jax.vmap(minus_energy)(randomness.split(key, self.num_samples))
    return math.log(self.num_samples) - jax.nn.logsumexp(minus, axis=0)

  def _cleaned(self, gradient, sigma):
    report = self.report
    if report is not None:
      finite = jnp.isfinite(gradient).all(tuple(range(1, gradient.ndim)))
      # under vmap, both branches of cond run
      warn = lambda count, sigma: report(count, sigma) if count else None
      count_and_warn = lambda: jax.debug.callback(warn, (~finite).sum(), jnp.max(sigma))
      jax.lax.cond(finite.all(), lambda: None, count_and_warn)
      gradient = jnp.where(expand(finite, gradient), gradient, 0)
    return arrays.upcast(gradient) / _rms(gradient) if self.normalize else gradient


@struct.dataclass
class Energies:
  """A weighted sum of energies, each with its own keys."""

  terms: tuple[Energy, ...]
  weights: Sequence[float]

  def __call__(self, x0: Array, key: Array | None = None) -> Array:
    """The sum, [B]."""
    keys = [None] * len(self.terms) if key is None else randomness.split(key, len(self.terms))
    weighted = [weight * term(x0, k) for weight, term, k in zip(self.weights, self.terms, keys)]
    return sum(weighted[1:], start=weighted[0])

  def at(self, sigma: Array) -> "Energies":
    """The sum at a noise level."""
    return Energies(tuple(at(term, sigma) for term in self.terms), self.weights)


def energies(*terms: Energy, weights: Sequence[float] | None = None) -> Energies:
  """Sums energies, so that the network is called and differentiated only once for all of them.

  Raises:
    ValueError: if there are no terms, or not one weight for each.
  """
  weights = (1.0,) * len(terms) if weights is None else tuple(weights)
  if not terms or len(weights) != len(terms):
    raise ValueError(
      f"energies needs one weight for each energy, got {len(weights)} for {len(terms)}; pass as many, at least one."
    )
  return Energies(terms, weights)


@struct.dataclass
class DecodedEnergy:
  """An energy of pictures as one of x0, for a model whose x0 is not the picture: energy(codec.decode(x0), key)."""

  energy: Energy
  codec: Codec

  def __call__(self, x0: Array, key: Array | None = None) -> Array:
    """The energy of the decoded pictures, [B]."""
    return self.energy(self.codec.decode(x0), key)

  def at(self, sigma: Array) -> "DecodedEnergy":
    """The same at a noise level."""
    return DecodedEnergy(at(self.energy, sigma), self.codec)


def at(energy: Energy | LevelEnergy, sigma: Array) -> Energy:
  """The energy at a noise level: the same energy unless it depends on the level."""
  return energy.at(sigma) if isinstance(energy, LevelEnergy) else energy


def _rms(x):
  return jnp.sqrt(jnp.maximum(jnp.square(arrays.upcast(x)).mean(tuple(range(1, x.ndim)), keepdims=True), 1e-24))
