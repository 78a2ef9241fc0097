"""Helpers for the training loop: how many steps each call runs, how batches are stacked for it, its progress bar."""

from collections.abc import Iterator
from typing import Any

import numpy as np


def calls(start: int, stop: int, steps_per_call: int, boundaries: tuple[int, ...]) -> Iterator[int]:
  """Numbers of steps per call, each at most `steps_per_call`, that never cross a multiple of any of `boundaries`.

  >>> list(calls(0, 25, 10, (4 * 5, 0)))
  [10, 10, 5]
  """
  step = start
  while step < stop:
    nearest = min([stop, *(step - step % every + every for every in boundaries if every > 0)])
    num = min(steps_per_call, nearest - step)
    yield num
    step += num


def stack_batches(batches: Iterator[dict[str, np.ndarray]], num: int, slots: int) -> dict[str, np.ndarray]:
  """The next `num` batches stacked: [slots, B, ...], where those beyond `num` are padding."""
  taken = [next(batches) for _ in range(num)]
  taken += taken[-1:] * (slots - num)
  return {name: np.stack([batch[name] for batch in taken]) for name in taken[0]}


def restart_clock(bar: Any, step: int) -> None:
  """Sets a tqdm bar to `step` and measures its rate and time left from now, since the first call compiles."""
  bar.initial = bar.n = bar.last_print_n = step
  bar.unpause()
  bar.refresh()
