import numbers
from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffjax import arrays, randomness, struct
from diffjax.checks import check_integer
from diffjax.grids import karras
from diffjax.samplers.heun import Heun
from diffjax.schedules import variance_exploding
from diffjax.typing import Array, NoiseFn, Sampler


@struct.dataclass
class Restart:
  """Restart sampling (Xu et al. 2023, algorithm 1): returns to t_max with fresh noise, then down again, K times.

      x_{t_max} = x_{t_min} + sqrt(t_max^2 - t_min^2) eps,  then the ODE from t_max to t_min

  The steps are those of any deterministic sampler. Once one of them reaches t_min or below, noise takes x from there
  up to t_max, and `num_steps` steps on a Karras grid bring it back down, which contracts accumulated errors. A grid
  that ends above t_min never restarts. For several intervals, nest Restart in Restart.

  Costs num_restarts * num_steps steps of `sampler` in addition to the grid's.

  Raises:
    ValueError: unless 0 < t_min < t_max, and num_restarts and num_steps are whole numbers of at least 1.
  """

  sampler: Sampler = struct.field(default_factory=Heun)
  t_min: float = 0.06
  t_max: float = 0.3
  num_restarts: int = struct.field(pytree_node=False, default=2)
  num_steps: int = struct.field(pytree_node=False, default=2)
  noise: NoiseFn = struct.field(pytree_node=False, default=randomness.normal)

  def __post_init__(self):
    check_integer(1, **{f"Restart's {name}": getattr(self, name) for name in ("num_restarts", "num_steps")})
    if isinstance(self.t_min, numbers.Real) and isinstance(self.t_max, numbers.Real):
      if not 0 < self.t_min < self.t_max < float("inf"):
        raise ValueError(f"restart goes from t_min = {self.t_min} up to t_max = {self.t_max}; give 0 < t_min < t_max.")

  @classmethod
  def of_heun(
    cls,
    t_min: float = 0.06,
    t_max: float = 0.3,
    num_restarts: int = 2,
    num_steps: int = 2,
    scaling: Callable[[Array], Array] = variance_exploding,
  ) -> "Restart":
    """Restart around `Heun` with the schedule's scaling."""
    return cls(Heun(scaling=scaling), t_min, t_max, num_restarts, num_steps)

  def check_grid(self, sigmas: Array) -> None:
    """Raises ValueError if a grid [N + 1] does not cross t_min, so that no restart would happen."""
    if not sigmas[-2] <= self.t_min < sigmas[0]:
      raise ValueError(
        f"restart begins at sigma {float(self.t_min):.3g}, but the grid goes from {float(sigmas[0]):.3g} to "
        f"{float(sigmas[-2]):.3g} above zero; choose a t_min between the two, or another grid."
      )

  def init(self, x):
    return self.sampler.init(x)

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    key_step, key_restart = randomness.split(key)
    state = arrays.cast_like((x, carry), self.sampler.step(denoiser, x, sigma, sigma_next, carry, key_step))
    crosses = (sigma_next <= self.t_min) & (self.t_min < sigma)
    restarts = lambda x, carry: self._restarts(denoiser, x, carry, sigma_next, key_restart)
    return jax.lax.cond(crosses, restarts, lambda x, carry: (x, carry), *state)

  def _restarts(self, denoiser, x, carry, t_min, key):
    levels = karras(self.num_steps + 1, t_min, self.t_max)[:-1].astype(x.dtype)

    def restart(state, number):
      key_noise, key_path = randomness.split(randomness.fold_in(key, number))
      x, _ = state
      x = (x + jnp.sqrt(levels[0] ** 2 - levels[-1] ** 2) * self.noise(key_noise, x.shape)).astype(x.dtype)

      def descend(state, step):
        i, sigma, sigma_next = step
        x, carry = state
        stepped = self.sampler.step(denoiser, x, sigma, sigma_next, carry, randomness.fold_in(key_path, i))
        return arrays.cast_like(state, stepped), None

      steps = jnp.arange(self.num_steps), levels[:-1], levels[1:]
      return jax.lax.scan(descend, (x, self.sampler.init(x)), steps)[0], None

    return jax.lax.scan(restart, (x, carry), jnp.arange(self.num_restarts))[0]
