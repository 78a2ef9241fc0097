"""Seeded damage to files, and what it takes to meet it: what escapes, how long, how much memory."""

import gc
import pathlib
import random
import time
from collections.abc import Callable

MAX_SECONDS, MAX_BYTES = 1.0, 200 * 2**20
"""Of the processor for one trial, and by which the process may grow in all of them."""


def damage(rng: random.Random, data: bytes) -> bytes:
  """The bytes after one to four edits: bits turned, bytes overwritten, put in, taken out, repeated, or the end cut."""
  changed = bytearray(data)
  for _ in range(rng.choice([1, 1, 2, 4])):
    at, length = rng.randrange(len(changed) + 1), rng.choice([1, 1, 2, 4, 16])
    some = bytes(rng.choice([rng.randbytes(length), b"\0" * length, b"\xff" * length]))
    match rng.choice(["flip", "flip", "overwrite", "insert", "remove", "repeat", "cut"]):
      case "flip" if at < len(changed):
        changed[at] ^= 1 << rng.randrange(8)
      case "overwrite":
        changed[at : at + length] = some
      case "insert":
        changed[at:at] = some
      case "remove":
        del changed[at : at + length]
      case "repeat":
        changed[at:at] = changed[at : at + 4 * length]
      case "cut":
        del changed[at:]
  return bytes(changed)


def endure(
  name: str,
  trials: int,
  attempt: Callable[[random.Random], str],
  seed: int = 0,
  most_seconds: float = MAX_SECONDS,
  most_bytes: int = MAX_BYTES,
) -> dict[str, int]:
  """Makes `trials` attempts, each with a generator of its own; prints and checks what they took.

  An attempt answers with a word for its outcome; whatever it raises is a failure. Returns how often each came.
  """
  attempt(random.Random(f"{seed} warm"))
  outcomes, failures, slowest = {}, [], (0.0, 0)
  begun, before = time.perf_counter(), peak_memory(reset=True)
  for trial in range(trials):
    start = time.process_time()
    try:
      outcome = attempt(random.Random(f"{seed} {trial}"))
      outcomes[outcome] = outcomes.get(outcome, 0) + 1
    except KeyboardInterrupt:
      raise
    except BaseException as error:  # a panic in Rust is no Exception
      failures.append(f"trial {trial}: {type(error).__name__}: {str(error)[:300]}")
    slowest = max(slowest, (time.process_time() - start, trial))
  growth, wall = peak_memory() - before, time.perf_counter() - begun
  print(
    f"\n{name}: {trials} trials, seed {seed}, {len(failures)} failures, {outcomes}; slowest {slowest[0]:.3f} s"
    f" (trial {slowest[1]}), memory grew by {growth / 2**20:.1f} MiB, {wall:.0f} s in all"
  )
  assert not failures, "\n".join(failures[:20])
  assert slowest[0] < most_seconds, slowest
  assert growth < most_bytes, growth
  return outcomes


class Bounded:
  """with Bounded(): ... fails where the block takes a second of the processor, or 200 MiB more at its peak."""

  def __enter__(self):
    gc.freeze()  # what other tests have left behind is not to be walked through on this one's time
    self.memory, self.start = peak_memory(reset=True), time.process_time()

  def __exit__(self, kind, *rest):
    gc.unfreeze()
    seconds, growth = time.process_time() - self.start, peak_memory() - self.memory
    assert kind or (seconds < MAX_SECONDS and growth < MAX_BYTES), (seconds, growth)


def peak_memory(*, reset: bool = False) -> int:
  """The most bytes the process has had in memory, since the last reset (Linux)."""
  if reset:
    pathlib.Path("/proc/self/clear_refs").write_text("5")
  line = next(line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
  return int(line.split()[1]) * 1024
