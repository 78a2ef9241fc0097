from typing import Any

from diffjax import struct
from diffjax.typing import Array, Cond, PyTree


@struct.dataclass
class Unconditional:
  """The conditioner of an unconditional model."""

  def conds(self, num: int, size: tuple[int, int] = (0, 0), **asked: Any) -> tuple[Cond, Cond]:
    """(None, None), for any number of images; ValueError if anything is asked for."""
    if asked:
      raise ValueError(f"this model draws without {' or '.join(asked)}; omit that, or train a conditional config.")
    return None, None

  def training_cond(self, batch: PyTree, keys: Array) -> Cond:
    """None, for any batch."""
    return None
