import numpy as np

from diffjax import struct
from diffjax.typing import Array, Cond, PyTree


@struct.dataclass
class Unconditional:
  """The conditioner of an unconditional model."""

  @property
  def null_cond(self) -> Cond:
    return None

  def cond(self, num: int, labels: np.ndarray | None = None) -> Cond:
    """None, for any number of pictures; raises ValueError if labels are passed."""
    if labels is not None:
      raise ValueError("this model was trained without labels; omit the label, or train a conditional config.")
    return None

  def training_cond(self, batch: PyTree, keys: Array) -> Cond:
    """None, for any batch."""
    return None
