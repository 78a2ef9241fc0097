"""Reports of a training run: a progress bar or lines, JSON lines, TensorBoard, a loss curve."""

import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from diffjax import plots
from diffjax.cluster import processes
from diffjax.system import paths, writing
from diffjax.training.loop import restart_clock

COUNTS = {"skipped", "skipped_in_row"}
"""Metrics that are not averaged over steps."""


class Report:
  """Collects each step's metrics, the objective's own too, and reports their mean every `log_every` steps.

  Writes metrics.jsonl, loss.png and, if tensorboardX is installed, event files into the run's folder. A terminal gets a
  progress bar, other outputs a line per report. Images per second and the time left are measured from the end of
  the first call, which compiles; a report at that step has neither.

  Args:
    workdir: the run's folder.
    start: steps already done.
    total: steps of the whole run.
    batch_size: images per step.
    log_every: steps between two reports.
    learning_rate: step -> rate.
  """

  def __init__(self, workdir: pathlib.Path, start: int, total: int, batch_size: int, log_every: int, learning_rate):
    self._batch_size, self._log_every, self._learning_rate = batch_size, log_every, learning_rate
    self._total, self._compiled = total, False
    self._curve, self._path = workdir / "loss.png", workdir / "metrics.jsonl"
    # The held-out loss at `start` may belong to an interrupted evaluation: it will be reported again
    before = [
      line for line in _read_lines(self._path) if line["step"] < start or (line["step"] == start and "loss" in line)
    ]
    with writing.replacing(self._path) as part:
      part.write_text("".join(json.dumps(line) + "\n" for line in before))
    self._history = [line for line in before if "loss" in line]
    self._lines = _Uploaded(self._path) if paths.is_remote(workdir) else self._path.open("a")
    self._events = _events(workdir / "tensorboard", start)
    self._bar = None
    if sys.stderr.isatty():
      import tqdm

      self._bar = tqdm.tqdm(total=total, initial=start, unit="step", dynamic_ncols=True)
    self._restart(start, time.perf_counter())

  def _restart(self, step, now):
    self._since, self._time, self._paused, self._sums = step, now, 0.0, {}

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Excludes time spent on anything but training from the images per second."""
    began = time.perf_counter()
    yield
    self._paused += time.perf_counter() - began

  def add(self, step: int, metrics: dict[str, np.ndarray]) -> None:
    """Adds the metrics [n] of the n steps that end at `step`, which must not cross a report boundary."""
    if not self._compiled:
      self._compiled, self._start, self._since, self._paused = True, step, step, 0.0
      self._begin = self._time = time.perf_counter()
      if self._bar is not None:
        restart_clock(self._bar, step)
    for name in metrics.keys() - COUNTS:
      values = metrics[name][np.isfinite(metrics[name])]
      total, count = self._sums.get(name, (0.0, 0))
      self._sums[name] = total + float(values.sum(dtype=np.float64)), count + len(values)
    if self._bar is not None:
      self._bar.update(step - self._bar.n)
    if step % self._log_every == 0 or step == self._total:
      self._report(step, int(metrics["skipped"][-1]))

  def _report(self, step, skipped):
    now = time.perf_counter()  # before anything below blocks on the device
    seconds = max(now - self._time - self._paused, 1e-9)
    line = {"step": step}
    line |= {name: total / count if count else None for name, (total, count) in sorted(self._sums.items())}
    line["learning_rate"] = float(self._learning_rate(step - 1 - skipped))
    steps = step - self._since
    line["images_per_second"] = steps * self._batch_size / seconds if steps else None
    line["skipped"] = skipped
    self._history.append(line)
    self._write(line)
    self._show(line)
    self._restart(step, now)

  def _write(self, line):
    with writing.naming(self._path):
      self._lines.write(json.dumps(line) + "\n")
      self._lines.flush()
      if self._events:
        self._events.add(line["step"], {name: value for name, value in line.items() if name != "step"})

  def _show(self, line):
    loss = "not finite" if line["loss"] is None else f"{line['loss']:.4f}"
    rate = f", {line['images_per_second']:.0f} images/s" if line["images_per_second"] else ""
    skipped = f", {line['skipped']} steps skipped" if line["skipped"] else ""
    if self._bar is not None:
      self._bar.set_postfix_str(f"loss {loss}{rate}{skipped}")
    else:
      steps, elapsed = line["step"] - self._start, time.perf_counter() - self._begin
      left = f", {elapsed / steps * (self._total - line['step']):.0f} s left" if steps else ""
      processes.announce(f"step {line['step']}/{self._total}, loss {loss}{rate}{skipped}{left}")

  def draw_curve(self) -> None:
    """Writes loss.png from all reports so far."""
    finite = [(line["step"], line["loss"]) for line in self._history if line["loss"] is not None]
    if finite:
      steps, losses = zip(*finite)
      plots.loss_curve(steps, losses, self._curve)

  def held_out(self, step: int, loss: float) -> None:
    """Records the held-out loss of the averaged model."""
    self._write({"step": step, "held_out_loss": loss if np.isfinite(loss) else None})

  def close(self) -> None:
    if self._bar is not None:
      self._bar.close()
    with writing.naming(self._path):
      self._lines.close()
      if self._events:
        self._events.close()


class NoReport:
  """The report of every process except process 0: does nothing."""

  paused = contextlib.nullcontext

  def add(self, step, metrics):
    pass

  def draw_curve(self):
    pass

  def held_out(self, step, loss):
    pass

  def close(self):
    pass


def _read_lines(path: pathlib.Path) -> list[dict]:
  """The complete lines of a JSON lines file; a killed run may have left a partial one at the end."""
  lines = []
  for text in path.read_text().splitlines() if path.exists() else ():
    try:
      lines.append(json.loads(text))
    except ValueError:
      continue
  return [line for line in lines if "step" in line]


class _Uploaded:
  """A text file in a bucket, which has no appends: uploads the whole file again, at most once a minute."""

  def __init__(self, path: Any):
    self._path, self._text, self._sent = path, path.read_text(), time.monotonic()

  def write(self, text: str) -> None:
    self._text += text

  def flush(self) -> None:
    if time.monotonic() - self._sent > 60:
      self.close()

  def close(self) -> None:
    self._path.write_text(self._text)
    self._sent = time.monotonic()


class _Events:
  """TensorBoard's event file. Not a SummaryWriter, whose thread dies on a full disk, which hangs the run."""

  def __init__(self, folder: pathlib.Path, start: int):
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto import event_pb2, summary_pb2

    self._event, self._summary = event_pb2, summary_pb2
    folder.mkdir(parents=True, exist_ok=True)
    self._writer = EventsWriter(str(folder / "events"))
    if start:  # hides events after `start` from a killed run
      log = event_pb2.SessionLog  # pyright: ignore[reportAttributeAccessIssue]  protobuf makes it at run time
      self._write(start + 1, session_log=log(status=log.START))

  def _write(self, step, **contents):
    self._writer.write_event(self._event.Event(step=step, wall_time=time.time(), **contents))

  def add(self, step: int, values: dict[str, float | None]) -> None:
    Value = self._summary.Summary.Value
    known = [Value(tag=name, simple_value=value) for name, value in values.items() if value is not None]
    self._write(step, summary=self._summary.Summary(value=known))
    self._writer.flush()

  def close(self) -> None:
    self._writer.close()


def _events(folder: pathlib.Path, start: int) -> _Events | None:
  if paths.is_remote(folder):  # event files need appends
    return None
  try:
    return _Events(folder, start)
  except ImportError:
    return None
