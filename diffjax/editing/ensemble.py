from diffjax import struct
from diffjax.arrays import expand
from diffjax.denoised import Denoised, Predictor, predict
from diffjax.typing import Array, Cond, Denoiser


@struct.dataclass
class Ensemble(Predictor):
  """Combines models: x0 = first + sum of weights_i * (others_i - first), all in x0 whatever they predict.

  Two models with weight 1/2 give the geometric mean of their noised densities. With an unconditional model first, this
  is the conjunction of the others (Liu et al. 2022, Compositional visual generation), and a negative weight negates
  one. All receive the same cond; bind a different one with `jax.tree_util.Partial`.

  Attributes:
    denoiser: the first model.
    others: a tuple of denoisers.
    weights: a tuple with one weight per other model, [] or [B].
  """

  denoiser: Denoiser
  others: tuple[Denoiser, ...]
  weights: tuple[float, ...]

  def predict(self, x: Array, sigma: Array, cond: Cond = None, *, key: Array | None = None) -> Denoised:
    """The combined x0, with the first model's variance; raises ValueError unless each of `others` has a weight."""
    first = predict(self.denoiser, x, sigma, cond, key=key)
    return Denoised(self._add(first.x0, x, sigma, cond, key), variance=first.variance)

  def _add(self, first, x, sigma, cond, key):
    if len(self.others) != len(self.weights):
      raise ValueError(f"there are {len(self.others)} others, but {len(self.weights)} weights; give one for each.")
    differences = [other(x, sigma, cond, key=key) - first for other in self.others]
    return first + sum(expand(weight, x) * difference for weight, difference in zip(self.weights, differences))
