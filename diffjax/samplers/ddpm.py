from collections.abc import Callable

import jax.numpy as jnp

from diffjax import posterior, randomness, struct
from diffjax.checks import check_in
from diffjax.denoised import predict
from diffjax.samplers.step_checks import check_downward
from diffjax.schedules import variance_preserving
from diffjax.typing import NoiseFn


@struct.dataclass
class DDPM:
  """Ancestral sampling from q(x_next | x, x0) with a chosen variance (Ho et al. 2020, algorithm 2). One network call.

      x_{t-1} = (x_t - (1 - alpha_t) / sqrt(1 - bar alpha_t) eps_theta(x_t, t)) / sqrt(alpha_t) + sigma_t z

  The first term is the mean of q, here in terms of x0 instead of eps, and of x = x0 + sigma * noise instead of x_t.
  Nichol & Dhariwal's variance is exp(v log beta_t + (1 - v) log beta-tilde_t).

  `fraction` is v, from the posterior's variance (0, "beta tilde") to the larger one (1, "beta"); with `learned=True`
  the network's extra channels give it (Nichol & Dhariwal 2021, eq. 15), and the denoiser must predict a variance.
  `scaling` is the schedule's; the larger variance depends on it.
  """

  fraction: float = 0.0
  learned: bool = struct.field(pytree_node=False, default=False)
  scaling: Callable = struct.field(pytree_node=False, default=variance_preserving)
  noise: NoiseFn = struct.field(pytree_node=False, default=randomness.normal)

  def __post_init__(self):
    check_in("[0, 1]", fraction=self.fraction)

  def init(self, x):
    return ()

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    check_downward(self, sigma, sigma_next)
    key_model, key_noise = randomness.split(key)
    x0, fraction = self._predict(denoiser, x, sigma, key_model)
    log_variance = posterior.interpolated_log_variance(fraction, sigma, sigma_next, self.scaling)
    noise = jnp.exp(log_variance / 2) * self.noise(key_noise, x.shape)
    return posterior.mean(x0, x, sigma, sigma_next) + noise, carry

  def _predict(self, denoiser, x, sigma, key):
    if not self.learned:
      return denoiser(x, sigma, key=key), self.fraction
    denoised = predict(denoiser, x, sigma, key=key)
    if denoised.variance is None:
      raise ValueError(
        "the denoiser predicts no variance; train the network with model.learned_variance, or use DDPM(fraction=...)."
      )
    return denoised.x0, denoised.variance
