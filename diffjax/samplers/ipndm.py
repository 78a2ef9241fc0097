import jax.numpy as jnp

from diffjax import struct
from diffjax.samplers import adams


@struct.dataclass
class IPNDM:
  """Improved PNDM, order 1 to 4: PNDM started by lower orders (Zhang & Chen 2022, DEIS). One network call.

  x_next = x + (sigma_next - sigma) * e with Adams and Bashforth's weights for equal steps, whatever the grid: e_t,
  (3 e_t - e_{t+1}) / 2, (23, -16, 5) / 12, and from the fourth step on (55, -59, 37, -9) / 24. So the order is reached
  on grids uniform in sigma, and is at most 2 on others.

  Raises:
    ValueError: if order is not 1 to 4.
  """

  order: int = struct.field(pytree_node=False, default=4)

  def __post_init__(self):
    adams.check_order("IPNDM", self.order, 4)

  def init(self, x):
    return adams.empty(x, self.order)

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    x0 = denoiser(x, sigma, key=key)
    past = push_step(carry, (x - x0) / sigma)
    weights = (sigma_next - sigma) * adams.integrals(past.places, past.places[0], past.places[0] + 1)
    return adams.step(x0, x, sigma, sigma_next, past, weights), past


def push_step(past: adams.History, eps: jnp.ndarray) -> adams.History:
  """Remembers eps [B, ...] at the place 0, 1, 2, ...: the number of the step."""
  last = past.places[0]
  return past.push(eps, jnp.where(jnp.isfinite(last), last + 1, 0))
