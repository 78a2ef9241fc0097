import numbers
from collections.abc import Callable

import jax.numpy as jnp

from diffjax import randomness, struct
from diffjax.arrays import safe_sqrt
from diffjax.checks import check_in, check_sampler
from diffjax.samplers.dpm_solver import DPMSolver
from diffjax.samplers.heun import Heun
from diffjax.samplers.step_checks import init_one_step
from diffjax.schedules import variance_exploding
from diffjax.typing import Array, NoiseFn, Sampler


@struct.dataclass
class Churn:
  """EDM's churn around any one-step sampler: fresh noise, then its step. It makes the sampler's network calls.

  Karras et al. 2022, algorithm 2, lines 4 to 6, with their t_i = sigma:

      gamma_i = min(S_churn / N, sqrt(2) - 1) if t_i in [S_tmin, S_tmax], else 0
      t^_i = t_i + gamma_i t_i
      x^_i = x_i + sqrt(t^_i^2 - t_i^2) eps_i,   eps_i ~ N(0, S_noise^2 I)

  and then the sampler's step from t^_i to t_{i+1}; with `Heun` this is exactly that algorithm. The last step, to zero,
  is a plain denoiser call and adds no noise.

  Args:
    sampler: one that carries no state between steps.
    s_churn: S_churn >= 0, spread over the whole trajectory.
    s_tmin, s_tmax: the noise levels between which noise is added.
    s_noise: the noise's scale, >= 0.
    num_steps: N, the grid's number of steps.

  Raises:
    ValueError: if a number is out of range or num_steps is None; when sampling, if the sampler carries state.
  """

  sampler: Sampler
  s_churn: float
  s_tmin: float = 0.0
  s_tmax: float = float("inf")
  s_noise: float = 1.0
  num_steps: int = struct.field(kw_only=True)
  noise: NoiseFn = struct.field(pytree_node=False, default=randomness.normal)

  def __post_init__(self):
    check_in("[0, inf)", s_churn=self.s_churn, s_tmin=self.s_tmin, s_noise=self.s_noise)
    check_in("[0, inf]", s_tmax=self.s_tmax)
    if self.num_steps is None:
      raise ValueError("s_churn is spread over the grid's steps, but num_steps is missing; pass it with s_churn.")
    check_in("[1, inf)", num_steps=self.num_steps)
    check_sampler(self.sampler)

  def init(self, x):
    return init_one_step(self, x)

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    key_churn, key_step = randomness.split(key)
    inside = (self.s_tmin <= sigma) & (sigma <= self.s_tmax)
    gamma = jnp.minimum(jnp.divide(self.s_churn, self.num_steps), jnp.sqrt(2.0) - 1)
    gamma = jnp.where(inside, gamma, 0).astype(x.dtype)
    noise = self.s_noise * self.noise(key_churn, x.shape)
    x = x + sigma * safe_sqrt(gamma * (2 + gamma)) * noise
    return self.sampler.step(denoiser, x, sigma * (1 + gamma), sigma_next, carry, key_step)


def _churned(sampler, s_churn: float, *fields, num_steps) -> Sampler:
  off = isinstance(s_churn, numbers.Real) and s_churn == 0
  return sampler if off else Churn(sampler, s_churn, *fields, num_steps=num_steps)


def heun_with_churn(
  s_churn: float = 0.0,
  s_tmin: float = 0.0,
  s_tmax: float = float("inf"),
  s_noise: float = 1.0,
  num_steps: int | None = None,
  scaling: Callable[[Array], Array] = variance_exploding,
) -> Sampler:
  """`Heun`, within `Churn` if s_churn is not 0."""
  return _churned(Heun(scaling), s_churn, s_tmin, s_tmax, s_noise, num_steps=num_steps)


def dpm2_with_churn(
  s_churn: float = 0.0,
  s_tmin: float = 0.0,
  s_tmax: float = float("inf"),
  s_noise: float = 1.0,
  num_steps: int | None = None,
) -> Sampler:
  """`DPMSolver(2)`, within `Churn` if s_churn is not 0: uses only a second slope, halfway in log sigma."""
  return _churned(DPMSolver(2), s_churn, s_tmin, s_tmax, s_noise, num_steps=num_steps)
