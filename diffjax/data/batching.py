"""Infinite shuffled batches, independent of the number of processes, with a state that resumes exactly."""

import dataclasses
import functools
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from diffjax.data.source import Source

if TYPE_CHECKING:
  import grain


def batches(
  source: Sequence[Any] | Source, batch_size: int, seed: int, *, process_index: int = 0, process_count: int = 1
) -> "grain.DatasetIterator":
  """This process's part of infinite shuffled global batches.

  Global batch k is elements [k * batch_size, (k + 1) * batch_size) of one stream: the data, reshuffled in every epoch,
  in an order that depends only on the seed. Process p takes elements p, p + process_count, ... of each batch. The
  iterator's `get_state()` is a small JSON-serialisable dict; `set_state` resumes from it exactly. Threads read ahead.

  A source with `groups` gives batches of one group each, in random order, as often as its share of the examples.

  Args:
    source: anything with a length and random access to dicts of arrays, such as `load` returns.
    batch_size: examples in a global batch; may exceed the size of the data, which is then repeated.
    seed: in [0, 2**32).
    process_index: index of this process, in [0, process_count).
    process_count: number of processes that share each global batch.

  Returns:
    A grain `DatasetIterator` of dicts: the source's arrays with a leading [batch_size / process_count], and
    "index": int32 of the same length, each example's position in its global batch.

  Raises:
    ValueError: an empty source, or an argument out of range.
  """
  given = batch_size, seed, process_index, process_count
  if isinstance(source, Source) and source.groups is not None:
    ids = _GroupedIds(source.by_group(), *given)
  else:
    ids = _BatchIds(len(source), *given)

  def read(batch):
    examples = [source[int(i)] for i in batch["id"]]
    return {key: np.stack([example[key] for example in examples]) for key in examples[0]} | {"index": batch["index"]}

  return _iterate(ids, read, num_threads=min(8, os.cpu_count() or 1))


def id_batches(
  n: int, batch_size: int, seed: int, *, process_index: int = 0, process_count: int = 1
) -> "grain.DatasetIterator":
  """The same batches as `batches` draws from n examples, as indices, for data in device memory.

  Returns:
    A grain `DatasetIterator` of {"id": int32 [b] in [0, n), "index": int32 [b]}, b = batch_size / process_count.

  Raises:
    ValueError: as `batches`.
  """
  return _iterate(_BatchIds(n, batch_size, seed, process_index, process_count), lambda batch: batch, num_threads=0)


def _iterate(ids, read, num_threads):
  import grain

  options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_threads)
  return iter(grain.MapDataset.source(ids).map(read).to_iter_dataset(options))


@dataclasses.dataclass(frozen=True)
class _BatchIds:
  """Batch k as a pure function of k, so that k is the whole state. Produces whole batches, as grain's own shuffle and
  batch take about 20 us per element."""

  n: int
  batch_size: int
  seed: int
  process_index: int
  process_count: int

  def __post_init__(self):
    if self.n < 1:
      raise ValueError("the data source is empty; add at least one example.")
    if not 0 <= self.process_index < self.process_count:
      raise ValueError(
        f"process index {self.process_index} is outside [0, process_count = {self.process_count}); correct it."
      )
    if self.batch_size < 1 or self.batch_size % self.process_count:
      raise ValueError(
        f"batch size {self.batch_size} cannot be shared by {self.process_count} processes;"
        f" use a positive multiple of {self.process_count}."
      )
    if not 0 <= self.seed < 2**32:
      raise ValueError(f"seed is {self.seed}; use an integer in [0, 2**32).")

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, k: int) -> dict[str, np.ndarray]:
    index = np.arange(self.process_index, self.batch_size, self.process_count)
    epoch, offset = np.divmod(int(k) * self.batch_size + index, self.n)
    ids = np.empty(len(index), np.int32)
    for e in np.unique(epoch):
      ids[epoch == e] = _permutation(self.n, self.seed, int(e))[offset[epoch == e]]
    return {"id": ids, "index": index.astype(np.int32)}


class _GroupedIds:
  """Batches of one group each, as often as its share of the examples; each group's are its own stream of `_BatchIds`.

  After `e` epochs a group of n examples has had floor(e * n / batch_size) batches; those of an epoch are shuffled.
  """

  def __init__(self, members: list[np.ndarray], batch_size: int, seed: int, process_index: int, process_count: int):
    self._members, self._sizes = members, np.array([len(ids) for ids in members])
    self._streams = [_BatchIds(len(ids), batch_size, seed, process_index, process_count) for ids in members]
    self._batch_size, self._seed = batch_size, seed

  def __len__(self) -> int:
    return sys.maxsize

  def _before(self, epoch: int) -> np.ndarray:
    """Each group's number of batches before an epoch."""
    return epoch * self._sizes // self._batch_size

  def __getitem__(self, k: int) -> dict[str, np.ndarray]:
    epoch = int(k) * self._batch_size // int(self._sizes.sum())
    while self._before(epoch + 1).sum() <= k:  # as a part of a batch is left to the next epoch
      epoch += 1
    first = self._before(epoch)
    counts = self._before(epoch + 1) - first
    slot = _permutation(int(counts.sum()), self._seed, epoch)[k - first.sum()]
    group = int(np.searchsorted(np.cumsum(counts), slot, side="right"))
    batch = self._streams[group][int(first[group] + slot - counts[:group].sum())]
    return batch | {"id": self._members[group][batch["id"]].astype(np.int32)}


@functools.lru_cache(maxsize=16)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
  # A resumed run must see the same order: RandomState's stream is frozen across NumPy versions, a Generator's is not.
  return np.random.RandomState([seed, epoch]).permutation(n).astype(np.int32)
