import jax

from diffjax import randomness, struct
from diffjax.samplers import adams
from diffjax.samplers.ipndm import push_step
from diffjax.samplers.step_checks import check_above_zero
from diffjax.schedules import VP, Schedule


@struct.dataclass
class PNDM:
  """Pseudo numerical method: DDIM's step with an eps combined by classical fourth-order rules (Liu et al. 2022).

  The paper's DDIM step phi(x, e, t, t') is x + (sigma_next - sigma) * e here, and e is

      (e_1 + 2 e_2 + 2 e_3 + e_4) / 6                                       in the first three steps
      (55 e_t - 59 e_{t+delta} + 37 e_{t+2 delta} - 9 e_{t+3 delta}) / 24   in the others

  The first rule, pseudo Runge-Kutta (PRK), takes four network calls, with e_2 and e_3 in the middle of the step in the
  schedule's time; the second, pseudo linear multistep (PLMS), takes one. With `skip_prk` the start is one step of
  Heun's rule, two calls, then PLMS of rising order. The order is 4 on grids uniform in sigma and 2 on others. The
  start, a rule in sigma, fails on a long step from a very large sigma (a flow at t = 1).
  """

  schedule: Schedule = VP()
  skip_prk: bool = struct.field(pytree_node=False, default=False)

  def init(self, x):
    return adams.empty(x, 4)

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    check_above_zero(self, sigma_next)
    keys = randomness.split(key, 4)
    x0 = denoiser(x, sigma, key=keys[0])
    eps = (x - x0) / sigma
    past = push_step(carry, eps)

    def move(level, slope):
      return x0 + level / sigma * (x - x0) + (level - sigma) * (slope - eps)

    def slope(level, slope_before, key):
      noisy = move(level, slope_before)
      return (noisy - denoiser(noisy, level, key=key)) / level

    def heun():
      return move(sigma_next, (eps + slope(sigma_next, eps, keys[1])) / 2)

    def prk():
      middle = self.schedule.sigma((self.schedule.t(sigma) + self.schedule.t(sigma_next)) / 2).astype(x.dtype)
      eps_2 = slope(middle, eps, keys[1])
      eps_3 = slope(middle, eps_2, keys[2])
      eps_4 = slope(sigma_next, eps_3, keys[3])
      return move(sigma_next, (eps + 2 * eps_2 + 2 * eps_3 + eps_4) / 6)

    def plms():
      weights = (sigma_next - sigma) * adams.integrals(past.places, past.places[0], past.places[0] + 1)
      return adams.step(x0, x, sigma, sigma_next, past, weights)

    start, num_start = (heun, 1) if self.skip_prk else (prk, 3)
    return jax.lax.cond(past.places[0] < num_start, start, plms), past
