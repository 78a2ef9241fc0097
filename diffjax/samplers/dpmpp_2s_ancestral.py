from diffjax import posterior, randomness, struct
from diffjax.checks import check_in
from diffjax.samplers.dpmpp_s import DPMppS
from diffjax.typing import NoiseFn


@struct.dataclass
class DPMpp2SAncestral:
  """DPM-Solver++(2S) down to sigma_down, then fresh noise: ancestral sampling of second order. Two network calls.

  The solver is Lu et al. 2022, DPM-Solver++, algorithm 1 with r = 1/2. eta in [0, 1] as in `Euler`; 0 is the ODE.
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
    x, _ = DPMppS(2).step(denoiser, x, sigma, sigma_down, (), key_model)
    return x + sigma_up * self.noise(key_noise, x.shape), carry
