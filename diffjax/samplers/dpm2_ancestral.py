from diffjax import posterior, randomness, struct
from diffjax.checks import check_in
from diffjax.samplers.dpm_solver import DPMSolver
from diffjax.typing import NoiseFn


@struct.dataclass
class DPM2Ancestral:
  """DPM-Solver-2 down to sigma_down, then fresh noise: ancestral sampling of second order. Two network calls.

  The solver is Lu et al. 2022, DPM-Solver, algorithm 1: a midpoint rule in sigma whose middle is the geometric mean of
  both levels. eta in [0, 1] as in `Euler`; 0 is the ODE. As a rule in sigma it fails on a long step from a very large
  sigma (a flow at t = 1, zero terminal SNR): `DPMpp2SAncestral` does not.
  """

  eta: float = 1.0
  noise: NoiseFn = struct.field(pytree_node=False, default=randomness.normal)

  def __post_init__(self):
    check_in("[0, 1]", eta=self.eta)

  def init(self, x):
    return ()

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    key_model, key_noise = randomness.split(key)
    sigma_down, sigma_up = posterior.ancestral(sigma, sigma_next, self.eta)
    x, _ = DPMSolver(2).step(denoiser, x, sigma, sigma_down, (), key_model)
    return x + sigma_up * self.noise(key_noise, x.shape), carry
