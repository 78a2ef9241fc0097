"""A data source: random access to the examples of one split."""

import dataclasses
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from diffjax.data.tokens import Tokenizer
from diffjax.warning import DiffjaxWarning


def sides(size: int | Sequence[int]) -> tuple[int, int]:
  """(H, W) of images whose size is given as the side of a square, or as that."""
  height, width = (size, size) if isinstance(size, int) else size
  return int(height), int(width)


@dataclasses.dataclass(frozen=True)
class Source:
  """Random access to one split: `source[i]` is {"image": uint8 [H, W, C], "label": int32 [] if it has labels}.

  Attributes:
    name: the name given to `load`.
    shape: (H, W, C) of every image, or with groups of the usual one.
    num_classes: labels are in [0, num_classes); 0 without labels.
    records: the stored examples, anything with a length and random access.
    decode: turns one record into an example.
    text: the caption of a record, if the data has captions.
    groups: where examples differ in shape, int [len], the group of each, whose examples have one shape; else None.

  Raises:
    IndexError: an index outside [-len, len).
  """

  name: str
  shape: tuple[int, int, int]
  num_classes: int
  records: Sequence[Any] = dataclasses.field(repr=False)
  decode: Callable[[Any], dict[str, Any]] = dataclasses.field(repr=False)
  text: Callable[[Any], str] | None = dataclasses.field(repr=False, default=None)
  groups: np.ndarray | None = dataclasses.field(repr=False, default=None)

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, i: int) -> dict[str, Any]:
    return self.decode(self.records[range(len(self))[operator.index(i)]])

  def by_group(self) -> list[np.ndarray]:
    """The indices of each group's examples, in ascending order; without groups, those of all."""
    if self.groups is None:
      return [np.arange(len(self))]
    return [np.flatnonzero(self.groups == group) for group in np.unique(self.groups)]

  def __iter__(self) -> Iterator[dict[str, Any]]:
    return (self[i] for i in range(len(self)))


def evenly(items: Source | Sequence[Any], num: int) -> list[Any]:
  """`num` of the items at equal distances, the first and the last among them; all if there are fewer."""
  return [items[int(i)] for i in np.linspace(0, len(items) - 1, min(num, len(items))).astype(int)]


CHECKED = 1000
"""Number of captions whose lengths are looked at before any is used."""


def with_tokens(source: Source, tokenizer: Tokenizer) -> Source:
  """The source with its captions as "tokens", int32 [L], in each example; a warning says if some are cut off.

  Raises:
    ValueError: it has no captions.
  """
  text = source.text
  if text is None:
    raise ValueError(
      f"data set {source.name!r} has no captions; for labelled images set captions.names and captions.templates, in an"
      " image folder write metadata.jsonl or a .txt file beside each image."
    )
  checked = [len(tokenizer.ids(text(record))) + 2 for record in evenly(source.records, CHECKED)]
  cut = sum(length > tokenizer.length for length in checked)
  if cut:
    warnings.warn(
      f"{cut} of {len(checked)} captions have more than {tokenizer.length} tokens, up to {max(checked)}, and are cut"
      " off; shorten them, or set captions.length and train.text_encoder.",
      DiffjaxWarning,
      stacklevel=3,
    )
  decode = lambda record: source.decode(record) | {"tokens": tokenizer([text(record)], quiet=True)[0]}
  return dataclasses.replace(source, decode=decode)


def in_memory(source: Source) -> dict[str, np.ndarray]:
  """Stacks all examples of a source: {"image": uint8 [N, H, W, C], "label": int32 [N] if it has labels}.

  Raises:
    ValueError: the source is empty, or its examples differ in shape.
  """
  if source.groups is not None:
    raise ValueError(f"the examples of {source.name!r} differ in size and cannot be stacked; open it without buckets.")
  if len(source) == 0:
    raise ValueError(f"data source {source.name!r} is empty, so there is nothing to hold in memory; add examples.")
  stacked = {key: np.empty((len(source), *np.shape(value)), value.dtype) for key, value in source[0].items()}
  for i, example in enumerate(source):
    for key, value in example.items():
      stacked[key][i] = value
  return stacked
