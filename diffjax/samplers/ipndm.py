import jax.numpy as jnp

from diffjax import struct
from diffjax.samplers import adams


@struct.dataclass
class IPNDM:
  """Improved PNDM, order 1 to 4: PNDM started with lower orders (Zhang & Chen 2022, DEIS). One network call.

  x_next = x + (sigma_next - sigma) * e with the Adams-Bashforth weights for equal steps, whatever the grid: e_t,
  (3 e_t - e_{t+1}) / 2, (23, -16, 5) / 12, and from the fourth step on (55, -59, 37, -9) / 24. The full order is
  therefore reached only on grids uniform in sigma; on others it is at most 2.

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
  """Appends eps [B, ...] at place 0, 1, 2, ...: the index of the step."""
  last = past.places[0]
  return past.push(eps, jnp.where(jnp.isfinite(last), last + 1, 0))
