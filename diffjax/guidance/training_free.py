"""Published methods as settings of energy guidance, translated from x_t = alpha * x of variance-preserving models.

There alpha = 1 / sqrt(1 + sigma^2) and grad_{x_t} = grad_x / alpha. `samplers.MeanGuided` and `samplers.Recurrent` are
the parts of these methods that belong to the sampler. The papers choose scales per task; the default is 1 unless a
paper gives another.
"""

import jax
import jax.numpy as jnp

from diffjax.guidance.energy import Energy, EnergyGuidance
from diffjax.guidance.scales import Scale, at_level
from diffjax.typing import Array, Denoiser


def over_alpha(scale: Scale, sigma: Array) -> Array:
  """scale / alpha, for a number or a function of sigma."""
  return at_level(scale, sigma) * jnp.sqrt(1 + jnp.square(sigma))


def over_alpha_squared(scale: Scale, sigma: Array) -> Array:
  """scale / alpha^2, for a number or a function of sigma."""
  return at_level(scale, sigma) * (1 + jnp.square(sigma))


def posterior_sampling(denoiser: Denoiser, energy: Energy, scale: Scale = 1.0) -> EnergyGuidance:
  """Diffusion posterior sampling (Chung et al. 2022, algorithm 1) for any energy: x_t moves by -scale * grad_{x_t}.

  Use with `samplers.MeanGuided(samplers.DDPM(), variance_preserving)`.
  """
  return EnergyGuidance(denoiser, energy, jax.tree_util.Partial(over_alpha_squared, scale), position="mean")


def lgd(
  denoiser: Denoiser, energy: Energy, scale: float = 1.0, num_samples: int = 10, spread: float = 1.0
) -> EnergyGuidance:
  """Loss-guided diffusion (Song et al. 2023): the score of exp(-energy) averaged over a normal posterior of x0."""
  return EnergyGuidance(denoiser, energy, scale, num_samples=num_samples, spread=spread)


def mpgd(denoiser: Denoiser, energy: Energy, scale: Scale = 1.0) -> EnergyGuidance:
  """Manifold-preserving guided diffusion without an autoencoder (He et al. 2023): x0 moves by the gradient at x0.

  Use with `samplers.MeanGuided(samplers.Euler(eta))`, which keeps the unguided noise. `scale` is the paper's c_t.
  """
  return EnergyGuidance(denoiser, energy, scale, position="x0")


def freedom(denoiser: Denoiser, energy: Energy, scale: Scale = 1.0) -> EnergyGuidance:
  """FreeDoM (Yu et al. 2023): x_t moves after each step by rho_t times the gradient, rho_t = scale * alpha.

  Use with `samplers.MeanGuided(sampler, variance_preserving)`, and `samplers.Recurrent` around it for time travel.
  """
  return EnergyGuidance(denoiser, energy, jax.tree_util.Partial(over_alpha, scale), position="mean")


def universal(
  denoiser: Denoiser,
  energy: Energy,
  scale: Scale = 2.0,
  inner_steps: int = 0,
  inner_scale: Scale = 0.0,
) -> EnergyGuidance:
  """Universal guidance (Bansal et al. 2023), "forward" with s(t) = scale * sqrt(1 - alpha^2).

  The inner steps of gradient descent on x0 are its "backward" part, `samplers.Recurrent(samplers.Euler(), 10)` its
  self-recurrence; this scale and the 10 repeats are those of the authors' CLIP guidance of an ImageNet model.
  """
  return EnergyGuidance(denoiser, energy, scale, inner_steps=inner_steps, inner_scale=inner_scale)


def training_free(
  denoiser: Denoiser,
  energy: Energy,
  rho: Scale = 1.0,
  mu: Scale = 1.0,
  spread: float = 0.0,
  inner_steps: int = 4,
  num_samples: int = 1,
) -> EnergyGuidance:
  """Training-free guidance (Ye et al. 2024): variance guidance of strength rho, inner_steps of mean guidance of mu.

  Use with `samplers.MeanGuided`, and `samplers.Recurrent` around it. `spread` is the paper's smoothing gamma; for its
  schedules rho_t and mu_t, pass functions of sigma.
  """
  return EnergyGuidance(
    denoiser,
    energy,
    jax.tree_util.Partial(over_alpha_squared, rho),
    position="mean",
    num_samples=num_samples,
    spread=spread,
    inner_steps=inner_steps,
    inner_scale=mu,
  )


def disco(denoiser: Denoiser, energy: Energy, scale: float = 1.0, clamp: float = 0.05) -> EnergyGuidance:
  """Disco Diffusion's guidance, for DDIM: the score moves by the gradient for x_t, its root mean square clamped.

  The energy is evaluated on x0 blended with x. Disco's energy is 5000 times the spherical distance over `Cutouts` plus
  150 times `penalties.out_of_range`, with eta 0.8 and 250 steps.
  """
  limit = jax.tree_util.Partial(_clamped_score, scale * clamp)
  return EnergyGuidance(denoiser, energy, scale, clamp=limit, blend=True)


def _clamped_score(clamp, sigma):
  """The size of x0's move sigma^2 * alpha * g, for a gradient g for x_t of size `clamp`."""
  return clamp * jnp.square(sigma) * jax.lax.rsqrt(1 + jnp.square(sigma))
