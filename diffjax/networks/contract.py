"""What the rest of the library needs to know of a network, besides `init` and `apply`."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Contract:
  """A network's capabilities, read from a Linen module's attributes of these names; missing ones have these defaults.

  Attributes:
    num_classes: labels 0..num_classes-1 in cond["label"]; 0: none.
    null_label: whether num_classes is also a label, meaning "no label".
    augment_dim: length of cond["augment"] [B, augment_dim], EDM's augmentation label; 0: none.
    learned_variance: whether the output has as many additional channels, for the variance.
    cross_attention: whether the network uses cond["context"] [B, L, D].
    remat: whether blocks are recomputed in the backward pass; None: the network cannot.
    largest_c_noise_at_least: the value c_noise must reach for the embedding to tell noise levels apart.
  """

  num_classes: int = 0
  null_label: bool = False
  augment_dim: int = 0
  learned_variance: bool = False
  cross_attention: bool = False
  remat: bool | None = None
  largest_c_noise_at_least: float = 0.0


def contract(module: Any) -> Contract:
  """The contract of a module, from its attributes."""
  names = [field.name for field in dataclasses.fields(Contract)]
  return Contract(**{name: getattr(module, name) for name in names if hasattr(module, name)})
