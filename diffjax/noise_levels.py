"""Distributions of the training noise level, as inverse distribution functions of a uniform number.

Each maps u [B] in (0, 1) to sigma [B]. The caller chooses the uniform numbers (`randomness.uniform`,
`randomness.stratified`), so every distribution can be stratified.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from diffjax import struct
from diffjax.schedules import Schedule
from diffjax.typing import Array


def _normal(u: Array) -> Array:
  return ndtri(jnp.clip(u, 1e-6, 1 - 1e-6))


@struct.dataclass
class UniformTime:
  """t uniform over the schedule's times, or over its steps if it is discrete (Ho et al. 2020, algorithm 1)."""

  schedule: Schedule

  def __call__(self, u: Array) -> Array:
    schedule = self.schedule
    if schedule.num_steps is not None:
      return schedule.sigma(jnp.minimum(jnp.floor(u * schedule.num_steps), schedule.num_steps - 1))
    return schedule.sigma(schedule.t_min + u * (schedule.t_max - schedule.t_min))


@struct.dataclass
class LogNormal:
  """log sigma ~ N(mean, std^2) (Karras et al. 2022, table 1)."""

  mean: float = -1.2
  std: float = 1.2

  def __call__(self, u: Array) -> Array:
    return jnp.exp(self.mean + self.std * _normal(u))


@struct.dataclass
class LogitNormal:
  """logit t ~ N(mean, std^2) for t as a fraction of the schedule's last time (Esser et al. 2024, eq. 19)."""

  schedule: Schedule
  mean: float = 0.0
  std: float = 1.0

  def __call__(self, u: Array) -> Array:
    return self.schedule.sigma(self.schedule.t_max * jax.nn.sigmoid(self.mean + self.std * _normal(u)))
