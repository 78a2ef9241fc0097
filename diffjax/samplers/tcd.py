import jax.numpy as jnp

from diffjax import arrays, randomness, struct
from diffjax.checks import check_in
from diffjax.grids import DDPM
from diffjax.schedules import Schedule
from diffjax.typing import NoiseFn


@struct.dataclass
class TCD:
  """Strategic stochastic sampling of a trajectory consistency model (Zheng et al. 2024). One network call.

  The model jumps along the ODE to s' = (1 - gamma) * t_next, in the `schedule`'s time, and noise leads back:

      x_{t_next} = alpha_{t_next} / alpha_{s'} f_theta(x_t, t, s') + sqrt(1 - (alpha_{t_next} / alpha_{s'})^2) z

  In x = x0 + sigma * noise that is x0 + sigma_down / sigma * (x - x0) + sqrt(sigma_next^2 - sigma_down^2) * z, with
  sigma_down = sigma(s'). gamma is in [0, 1]: 0 is deterministic, 1 jumps to the cleanest time as `Consistency` does.
  With a discrete schedule, s' is rounded down to a whole step.
  """

  gamma: float = 0.3
  schedule: Schedule = DDPM
  noise: NoiseFn = struct.field(pytree_node=False, default=randomness.normal)

  def __post_init__(self):
    check_in("[0, 1]", gamma=self.gamma)

  def init(self, x):
    return ()

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    key_model, key_noise = randomness.split(key)
    t_down = (1 - self.gamma) * self.schedule.t(sigma_next)
    if self.schedule.num_steps is not None:
      t_down = jnp.floor(t_down + 1e-2)  # in float32 a whole time may come out slightly too small
    sigma_down = jnp.minimum(self.schedule.sigma(t_down), sigma_next).astype(x.dtype)
    sigma_down = jnp.where(self.gamma == 0, sigma_next, sigma_down)  # sigma_next may lie between two times
    sigma_up = arrays.safe_sqrt((sigma_next - sigma_down) * (sigma_next + sigma_down))
    x0 = denoiser(x, sigma, key=key_model)
    return x0 + sigma_down / sigma * (x - x0) + sigma_up * self.noise(key_noise, x.shape), carry
