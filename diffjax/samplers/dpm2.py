from diffjax import randomness, struct
from diffjax.samplers.churn import check_churn, churn
from diffjax.samplers.dpm_solver import DPMSolver
from diffjax.typing import NoiseFn


@struct.dataclass
class DPM2:
  """DPM-2: Karras et al. 2022, algorithm 2, with the midpoint in log sigma of DPM-Solver-2. Two network calls.

  The second slope is taken halfway in log sigma and replaces the first, where Heun averages the two. Without churn
  this is DPM-Solver-2 (Lu et al. 2022, algorithm 1). The churn's fields are those of `Heun`.
  """

  s_churn: float = 0.0
  s_tmin: float = 0.0
  s_tmax: float = float("inf")
  s_noise: float = 1.0
  num_steps: int | None = None
  noise: NoiseFn = struct.field(pytree_node=False, default=randomness.normal)

  def __post_init__(self):
    check_churn(self)

  def init(self, x):
    return ()

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    key_churn, key_model = randomness.split(key)
    x, sigma_hat = churn(self, x, sigma, key_churn)
    return DPMSolver(2).step(denoiser, x, sigma_hat, sigma_next, carry, key_model)
