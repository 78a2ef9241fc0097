import jax
import jax.numpy as jnp

from diffjax import arrays, randomness, struct
from diffjax.checks import check_integer
from diffjax.typing import NoiseFn, Sampler


@struct.dataclass
class Recurrent:
  """Time travel: returns to sigma with fresh noise and steps again, `repeats` steps in all within the interval.

  In the variance-preserving z_t = sqrt(alpha_t) * x the papers return from t - 1 to t by

      z_t = sqrt(alpha_t / alpha_{t-1}) z_{t-1} + sqrt(1 - alpha_t / alpha_{t-1}) eps'

  which is x + sqrt(sigma^2 - sigma_next^2) * noise. This is the self-recurrence of universal guidance (Bansal et al.
  2023, algorithm 1) and the time travel of FreeDoM (Yu et al. 2023) and of training-free guidance. `repeats` times the
  sampler's network calls.
  """

  sampler: Sampler
  repeats: int = struct.field(pytree_node=False, default=1)
  interval: tuple[float, float] = (0.0, float("inf"))
  noise: NoiseFn = struct.field(pytree_node=False, default=randomness.normal)

  def __post_init__(self):
    check_integer(1, repeats=self.repeats)

  def init(self, x):
    return self.sampler.init(x)

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    inside = arrays.within(sigma, self.interval)

    def there_and_back(x, number):
      key_step, key_noise = randomness.split(randomness.fold_in(key, number))
      # each repeat starts from the same carry: x is at the same level again
      there, _ = self.sampler.step(denoiser, x, sigma, sigma_next, carry, key_step)
      up = jnp.sqrt((sigma - sigma_next) * (sigma + sigma_next))
      return (there + up * self.noise(key_noise, x.shape)).astype(x.dtype)

    again = lambda x, number: (jax.lax.cond(inside, there_and_back, lambda x, _: x, x, number), None)
    if self.repeats > 1:
      x, _ = jax.lax.scan(again, x, jnp.arange(1, self.repeats))
    return self.sampler.step(denoiser, x, sigma, sigma_next, carry, key)


def check_not_recurrent(sampler: Sampler, name: str) -> None:
  """Raises ValueError if `sampler` is a Recurrent, which the wrapper called `name` cannot wrap."""
  if isinstance(sampler, Recurrent):
    raise ValueError(f"{name} uses the first call of its sampler's step; put Recurrent around it, not inside.")
