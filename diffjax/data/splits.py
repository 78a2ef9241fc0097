"""Chooses held-out examples when the data does not define a split."""

import hashlib
import os
from collections.abc import Sequence

HELD_OUT = 0.05


def choose(names: Sequence[str], split: str) -> list[int]:
  """Indices of a split's examples: those with the lowest hashes of their names are held out.

  These are all with a hash below 0.05, so that examples keep their split when the data grows; but of two or more
  examples at least one is held out, and at least one is not.
  """
  scores = [int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=8).digest()) / 2**64 for name in names]
  order = sorted(range(len(names)), key=scores.__getitem__)
  num_test = sum(score < HELD_OUT for score in scores)
  num_test = min(max(num_test, 1), len(names) - 1)
  return sorted(order[:num_test] if split == "test" else order[num_test:])
