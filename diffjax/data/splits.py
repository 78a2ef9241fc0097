"""Which examples are held out where the data do not say."""

import hashlib
import os
from collections.abc import Sequence

HELD_OUT = 0.05


def choose(names: Sequence[str], split: str) -> list[int]:
  """Positions of a split's examples: those whose names have the lowest hashes are held out, one of two at least.

  A hash below 0.05 is held out whatever else there is, so that data may grow and examples keep their split.
  """
  scores = [int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=8).digest()) / 2**64 for name in names]
  order = sorted(range(len(names)), key=scores.__getitem__)
  num_test = sum(score < HELD_OUT for score in scores)
  num_test = min(max(num_test, 1), len(names) - 1)
  return sorted(order[:num_test] if split == "test" else order[num_test:])
