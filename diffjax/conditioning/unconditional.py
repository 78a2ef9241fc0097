from typing import Any

from diffjax import struct
from diffjax.typing import Array, Cond, PyTree


@struct.dataclass
class Unconditional:
  """The conditioner of an unconditional model."""

  def cond(self, num: int, size: tuple[int, int] = (0, 0), **asked: Any) -> Cond:
    """None, for any number of images; ValueError if anything is asked for."""
    if asked:
      raise ValueError(f"this model draws without {' or '.join(asked)}; omit that, or train a conditional config.")
    return None

  def null_cond(self, size: tuple[int, int] = (0, 0), **asked: Any) -> Cond:
    return None

  def training_cond(self, batch: PyTree, keys: Array) -> Cond:
    """None, for any batch."""
    return None
