from diffjax import struct
from diffjax.arrays import expand
from diffjax.denoised import Denoised, Predictor, predict
from diffjax.typing import Array, Cond, Denoiser


@struct.dataclass
class Ensemble(Predictor):
  """Several models as one: x0 = first + sum of weights_i * (others_i - first), in one coordinate whatever they predict.

  Two models with weight 1/2 give the geometric mean of their noised densities. With an unconditional model first, this
  is the conjunction of the others (Liu et al. 2022, Compositional visual generation), and a negative weight takes one
  away. All get the same cond; bind another with `jax.tree_util.Partial`.

  Attributes:
    denoiser: the first.
    others: a tuple of denoisers.
    weights: a tuple with one weight for each of them, [] or [B].
  """

  denoiser: Denoiser
  others: tuple[Denoiser, ...]
  weights: tuple[float, ...]

  def predict(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Denoised:
    """x0 of all; the variance of the first; raises ValueError unless each of `others` has a weight."""
    first = predict(self.denoiser, x, sigma, cond, key=key)
    return Denoised(self._add(first.x0, x, sigma, cond, key), variance=first.variance)

  def _add(self, first, x, sigma, cond, key):
    if len(self.others) != len(self.weights):
      raise ValueError(f"there are {len(self.others)} others, but {len(self.weights)} weights; give each one.")
    differences = [other(x, sigma, cond, key=key) - first for other in self.others]
    return first + sum(expand(weight, x) * difference for weight, difference in zip(self.weights, differences))
