import jax.numpy as jnp

from diffjax import struct
from diffjax.arrays import expand
from diffjax.samplers import adams
from diffjax.samplers.step_checks import check_above_zero

KINDS = ("bh1", "bh2")


@struct.dataclass
class UniPC:
  """UniPC-p in x0, order 1 to 3: a predictor of order p, corrected to order p + 1 (Zhao et al. 2023). One network call.

  Predictor (UniP) and corrector (UniC, with x0 at the new level among the D_m) are one formula. In the paper's symbols,
  for data prediction, with lambda = log(alpha / sigma), its step h, and D_m the differences of x_theta at r_m h:

      x_i = sigma_i / sigma_{i-1} x_{i-1} + alpha_i (1 - exp(-h)) x_theta(x_{i-1}) + alpha_i B(h) sum_m a_m / r_m D_m

  Divided by alpha: x_next = x0 + exp(-h) * (x - x0) + sum_m w_m * (x0_m - x0). The paper chooses a_m so that
  polynomials through all points are integrated exactly; then B(h) cancels, and w_m = integral of exp(l - h) L_m(l) dl
  over [0, h]. If only one point besides the nearest is known, it sets a = 1/2 instead, and B(h) = h ("bh1") or
  1 - exp(-h) ("bh2").

  The corrector uses the x0 that the next predictor needs anyway. The first steps have lower order.

  Raises:
    ValueError: if order is not 1 to 3, or kind is unknown.
  """

  order: int = struct.field(pytree_node=False, default=3)
  kind: str = struct.field(pytree_node=False, default="bh2")

  def __post_init__(self):
    adams.check_order("UniPC", self.order, 3)
    if self.kind not in KINDS:
      raise ValueError(f"UniPC has no kind {self.kind!r}; choose one of {', '.join(KINDS)}.")

  def init(self, x):
    return x, adams.empty(x, self.order)

  def step(self, denoiser, x, sigma, sigma_next, carry, key):
    check_above_zero(self, sigma_next)
    x_last, past = carry
    x0, place = denoiser(x, sigma, key=key), -jnp.log(sigma)
    x = jnp.where(jnp.isfinite(past.places[0]), self._correct(x_last, past, x0, place), x)
    past = past.push(x0, place)
    return self._move(x, past, -jnp.log(sigma_next)), (x, past)

  def _correct(self, x_last, past, x0, place):
    # before the first step any finite place will do: even an unselected NaN would spoil gradients
    last = jnp.where(jnp.isfinite(past.places[0]), past.places[0], place - 1)
    known = adams.History(
      jnp.concatenate([past.values[:1], x0[None], past.values[1:]]),
      jnp.concatenate([jnp.stack([last, place]), past.places[1:]]),
    )
    return self._move(x_last, known, place)

  def _move(self, x, known, end):
    """x at known.places[0], moved to `end`."""
    x0, start = known.values[0], known.places[0]
    h, differences = end - start, known.values[1:] - x0[None]
    points, weights = adams.quadrature(start, end)
    exact = (adams.lagrange(known.places, points) * (weights * jnp.exp(points - end))[None]).sum(1)[1:]
    others = jnp.isfinite(known.places[1:])
    b = h if self.kind == "bh1" else -jnp.expm1(-h)
    half = jnp.where(others, b * h / (2 * jnp.where(others, known.places[1:] - start, 1)), 0)
    chosen = jnp.where(others.sum() == 1, half, exact)
    return x0 + jnp.exp(-h) * (x - x0) + (expand(chosen, differences) * differences).sum(0)
