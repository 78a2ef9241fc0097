from diffjax import struct
from diffjax.samplers import adams


@struct.dataclass
class LMS:
  """Adams-Bashforth in sigma on any grid, order 1 to 4 (Hairer, Norsett & Wanner, section III.5). One network call.

  x_next = x + sum_j eps_j * integral from sigma to sigma_next of L_j(s) ds, with L_j the Lagrange polynomials of the
  last levels and eps_j = dx / dsigma = (x - x0) / sigma there; k-diffusion's "LMS". The first steps have lower order.

  Raises:
    ValueError: if order is not 1 to 4.
  """

  order: int = struct.field(pytree_node=False, default=4)

  def __post_init__(self):
    adams.check_order("LMS", self.order, 4)

  def init(self, x):
    return adams.empty(x, self.order)

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    x0 = denoiser(x, sigma, key=key)
    past = carry.push((x - x0) / sigma, sigma)
    weights = adams.integrals(past.places, sigma, sigma_next)
    return adams.step(x0, x, sigma, sigma_next, past, weights), past
