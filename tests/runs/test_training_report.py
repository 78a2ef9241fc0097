"""Training reports: lines or a bar, and files that any reader can parse."""

import io
import json
import pathlib
import sys
import threading

import numpy as np
import pytest

from diffjax.runs.report import Report


def metrics(*losses, skipped=0):
  losses = np.array(losses, np.float32)
  return {
    "loss": losses,
    "grad_norm": 2 * losses,
    "skipped": np.full(len(losses), skipped),
    "skipped_in_row": np.full(len(losses), skipped),
  }


def a_report(workdir, start=0, total=8):
  return Report(workdir, start, total, batch_size=16, log_every=4, learning_rate=lambda step: 0.1 * step)


def lines(workdir):
  strict = lambda constant: pytest.fail(f"{constant} is no JSON")
  return [json.loads(line, parse_constant=strict) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_means_over_the_steps_since_the_last_line(tmp_path, capsys):
  report = a_report(tmp_path)
  report.add(3, metrics(1, 2, 3))
  report.add(4, metrics(6))
  report.held_out(4, 0.25)
  report.add(8, metrics(1, np.nan, 5, np.inf, skipped=2))
  report.close()
  first, held_out, second = lines(tmp_path)
  assert (first["step"], first["loss"], first["grad_norm"], first["skipped"]) == (4, 3, 6, 0)
  assert first["learning_rate"] == pytest.approx(0.3)  # of the last step
  assert held_out == {"step": 4, "held_out_loss": 0.25}
  assert (second["loss"], second["skipped"]) == (3, 2)
  assert second["learning_rate"] == pytest.approx(0.5)  # skipped updates do not count
  told = capsys.readouterr()
  assert [line.split(", ")[:2] for line in told.out.splitlines()] == [
    ["step 4/8", "loss 3.0000"],
    ["step 8/8", "loss 3.0000"],
  ]
  assert "2 steps skipped" in told.out and "images/s" in told.out and " s left" in told.out
  assert not told.err


def test_nothing_finite(tmp_path, capsys):
  report = a_report(tmp_path)
  report.add(4, metrics(np.nan, np.nan, np.inf, np.nan, skipped=4))
  report.held_out(4, float("nan"))
  report.draw_curve()
  report.close()
  assert [line.get("loss", line.get("held_out_loss")) for line in lines(tmp_path)] == [None, None]
  assert "loss not finite" in capsys.readouterr().out


def test_a_resumed_run_continues_the_files(tmp_path):
  report = a_report(tmp_path)
  report.add(4, metrics(1, 1, 1, 1))
  report.held_out(4, 0.5)
  report.add(8, metrics(7, 7, 7, 7))
  report.held_out(8, 0.75)
  report.close()
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 9, "lo')  # killed while it wrote
  report = a_report(tmp_path, start=4)
  report.add(8, metrics(2, 2, 2, 2))
  report.draw_curve()
  report.close()
  # the state of step 4 is judged again
  assert [(line["step"], line.get("loss")) for line in lines(tmp_path)] == [(4, 1), (8, 2)]
  assert (tmp_path / "loss.png").stat().st_size > 1000


def test_pauses_do_not_count(tmp_path, monkeypatch):
  clock = iter(range(0, 1000, 10))
  monkeypatch.setattr("time.perf_counter", lambda: next(clock))
  report = a_report(tmp_path)  # reads the clock at 0
  report.add(1, metrics(1))  # 10
  with report.paused():  # 20, 30
    pass
  report.add(4, metrics(1, 1, 1))  # 40
  report.close()
  assert lines(tmp_path)[0]["images_per_second"] == pytest.approx(3 * 16 / (40 - 10 - (30 - 20)))


def test_the_first_call_which_compiles_does_not_count(tmp_path, monkeypatch, capsys):
  now = 0.0
  monkeypatch.setattr("time.perf_counter", lambda: now)
  report = a_report(tmp_path, total=12)
  for step, now in ((4, 100.0), (8, 104.0)):  # noqa: B007
    report.add(step, metrics(1, 1, 1, 1))
  report.close()
  assert [line["images_per_second"] for line in lines(tmp_path)] == [None, 16]
  first, second = capsys.readouterr().out.splitlines()
  assert first == "step 4/12, loss 1.0000"
  assert second == "step 8/12, loss 1.0000, 16 images/s, 4 s left"


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_nor_on_a_terminal(tmp_path, monkeypatch):
  now, terminal = 0.0, Terminal()
  monkeypatch.setattr("tqdm.std.time", lambda: now)
  monkeypatch.setattr(sys, "stderr", terminal)
  report = a_report(tmp_path, start=2, total=12)
  for step, now in ((4, 100.0), (6, 102.0), (8, 104.0)):  # noqa: B007
    report.add(step, metrics(1, 1))
  report.close()
  assert "4/12 [00:00<?" in terminal.getvalue() and "6/12 [00:02<00:06," in terminal.getvalue()
  assert "8/12 [00:04<00:04," in terminal.getvalue()


def test_a_terminal_gets_a_bar(tmp_path, monkeypatch, capsys):
  terminal = Terminal()
  monkeypatch.setattr(sys, "stderr", terminal)
  report = a_report(tmp_path)
  report.add(3, metrics(1, 2, 3))
  report.add(4, metrics(6))
  report.close()
  shown = terminal.getvalue()
  assert "4/8" in shown and "loss 3.0000" in shown and "images/s" in shown
  assert not capsys.readouterr().out


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="takes a file that is always full")
def test_a_full_disk_ends_the_run_with_one_error(tmp_path):
  """The run does not hang, and no thread prints anything else."""
  threads = threading.active_count()
  report = a_report(tmp_path)
  report._lines.close()
  report._lines = open("/dev/full", "a")
  for end in (lambda: report.add(4, metrics(1, 2, 3, 6)), report.close):
    with pytest.raises(OSError, match=r"metrics\.jsonl cannot be written \(No space left on device\)"):
      end()
  assert threading.active_count() == threads


def test_event_files(tmp_path):
  pytest.importorskip("tensorboardX")
  from tensorboardX.proto.event_pb2 import Event

  report = a_report(tmp_path)
  report.add(3, metrics(1, 2, 3))
  report.add(4, metrics(6))
  report.held_out(4, 0.25)
  report.close()
  (path,) = (tmp_path / "tensorboard").iterdir()
  values = {}
  data = path.read_bytes()
  while data:  # records: length, checksum of it, event, checksum of that
    length = int.from_bytes(data[:8], "little")
    for value in Event.FromString(data[12 : 12 + length]).summary.value:
      values[value.tag] = value.simple_value
    data = data[16 + length :]
  assert values["loss"] == 3 and values["held_out_loss"] == 0.25
  assert {"grad_norm", "learning_rate", "images_per_second", "skipped"} <= set(values)
