import jax.numpy as jnp

from diffjax import struct
from diffjax.samplers import adams
from diffjax.samplers.step_checks import check_above_zero
from diffjax.schedules import VP, Schedule

COORDINATES = ("log_rho", "time")


@struct.dataclass
class DEIS:
  """Exponential integrator with a polynomial through the last eps, order 1 to 4 (Zhang & Chen 2022). One network call.

  The paper's tAB-DEIS, with order = r + 1, Psi the transition of the ODE's linear part, and w(s) eps the rest:

      x_{i-1} = Psi(t_{i-1}, t_i) x_i + sum_{j=0..r} C_ij eps_theta(x_{i+j}, t_{i+j})
      C_ij = integral from t_i to t_{i-1} of Psi(t_{i-1}, s) w(s) L_j(s) ds
      L_j(s) = prod_{k != j} (s - t_{i+k}) / (t_{i+j} - t_{i+k})

  In x = x0 + sigma * noise, Psi = 1 and w(s) ds = dsigma: x_next = x + sum_j eps_j * integral of L_j(u) dsigma, with
  u = log sigma ("log_rho", the paper's rho being sigma) or the schedule's time ("time"). Order 1 is DDIM; polynomials
  in rho itself, the paper's rhoAB-DEIS, are `LMS`. The first steps have lower order.

  Raises:
    ValueError: if order is not 1 to 4, or the coordinate is unknown.
  """

  order: int = struct.field(pytree_node=False, default=3)
  coordinate: str = struct.field(pytree_node=False, default="log_rho")
  schedule: Schedule = VP()

  def __post_init__(self):
    adams.check_order("DEIS", self.order, 4)
    if self.coordinate not in COORDINATES:
      raise ValueError(f"DEIS has no coordinate {self.coordinate!r}; choose one of {', '.join(COORDINATES)}.")

  def init(self, x):
    return adams.empty(x, self.order)

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    check_above_zero(self, sigma_next)
    x0 = denoiser(x, sigma, key=key)
    past = carry.push((x - x0) / sigma, self._place(jnp.log(sigma)))
    log_rho, weights = adams.quadrature(jnp.log(sigma), jnp.log(sigma_next))
    polynomials = adams.lagrange(past.places, self._place(log_rho))
    integrals = (polynomials * (weights * jnp.exp(log_rho))[None]).sum(1)
    return adams.step(x0, x, sigma, sigma_next, past, integrals), past

  def _place(self, log_rho):
    return log_rho if self.coordinate == "log_rho" else self.schedule.t(jnp.exp(log_rho)).astype(log_rho.dtype)
