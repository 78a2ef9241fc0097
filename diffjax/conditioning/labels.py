from typing import Any

import jax.numpy as jnp
import numpy as np

from diffjax import randomness, struct
from diffjax.typing import Array, Cond, PyTree


@struct.dataclass
class Labels:
  """Classes 0..num_classes-1 as cond["label"], int32 [B].

  Attributes:
    dropout: the fraction of labels that training replaces by the null label (Ho & Salimans 2022, algorithm 1).
    num_classes: the number of classes; `num_classes` itself is the null label.
    null_label: whether the network knows the null label.
  """

  dropout: float = 0.0
  num_classes: int = struct.field(pytree_node=False, kw_only=True)
  null_label: bool = struct.field(pytree_node=False, default=True)

  def conds(
    self, num: int, size: tuple[int, int] = (0, 0), *, labels: np.ndarray | None = None, **asked: Any
  ) -> tuple[Cond, Cond]:
    """(cond, null cond) of `num` images, of any size, with these labels, int [num]; the cond is None without labels.

    Raises:
      ValueError: the number of labels is not `num`, or one is out of range; or something else is asked for.
    """
    if asked:
      raise ValueError(f"this model draws by label, not by {' or '.join(asked)}; omit that.")
    null_cond = {"label": self.num_classes} if self.null_label else None
    if labels is None:
      return None, null_cond
    labels = np.asarray(labels)
    if labels.shape != (num,):
      raise ValueError(f"labels have shape {labels.shape}; pass one label for each of the {num} images.")
    if labels.min() < 0 or labels.max() >= self.num_classes:
      raise ValueError(
        f"labels {labels.min()}..{labels.max()} are out of range; choose each from 0..{self.num_classes - 1}."
      )
    return {"label": labels.astype(np.int32)}, null_cond

  def training_cond(self, batch: PyTree, keys: Array) -> Cond:
    """The labels of a batch, each dropped at random by its own key, keys [b]."""
    dropped = randomness.uniform(keys) < self.dropout
    return {"label": jnp.where(dropped, self.num_classes, batch["label"])}
