from diffjax import struct
from diffjax.typing import Array, Cond, PyTree


@struct.dataclass
class Unconditional:
  """The conditioner of a model that cannot be asked for anything."""

  @property
  def null_cond(self) -> Cond:
    return None

  def cond(self, num: int) -> Cond:
    """None, for any number of pictures."""
    return None

  def training_cond(self, batch: PyTree, keys: Array) -> Cond:
    """None, for any batch."""
    return None
