"""python -m diffjax.plots: what its two pictures show, and that they appear."""

import numpy as np
import pytest
from PIL import Image

from diffjax import from_config
from diffjax.plots import __main__ as script


def test_every_schedule_falls_from_data_to_noise():
  curves = script.log_snrs()
  assert curves.keys() == from_config.SCHEDULES.keys()
  for times, log_snrs in curves.values():
    assert np.all(np.isfinite(log_snrs)) and np.all(np.diff(log_snrs) <= 1e-4)
    assert times[0] == 0 and times[-1] == 1


@pytest.mark.slow
def test_errors_fall_with_network_calls(x64, monkeypatch):
  monkeypatch.setattr(
    from_config, "SAMPLERS", {name: from_config.SAMPLERS[name] for name in ("euler", "heun", "pndm", "adaptive")}
  )
  monkeypatch.setattr(script, "CALLS", (16, 32, 64))
  curves = script.errors()
  assert curves["pndm"][0] == [16 + 9, 32 + 9, 64 + 9]  # three steps of four calls
  assert np.all(np.diff(curves["adaptive"][0]) >= 0) and curves["adaptive"][1][-1] < 1e-5
  assert curves["heun"][0] == [15, 31, 63] and curves["euler"][0] == [16, 32, 64]
  assert curves["euler"][1][1] / curves["euler"][1][2] == pytest.approx(2, rel=0.2)
  assert curves["heun"][1][1] / curves["heun"][1][2] == pytest.approx(4, rel=0.3)


@pytest.mark.slow
def test_distances_fall_with_network_calls(x64, monkeypatch):
  monkeypatch.setattr(
    from_config, "SAMPLERS", {name: from_config.SAMPLERS[name] for name in ("ddpm", "dpmpp_2m_sde", "restart")}
  )
  monkeypatch.setattr(script, "CALLS", (16, 64))
  curves = script.distances()
  for name in ("ddpm", "dpmpp_2m_sde"):
    assert curves[name][1][0] > 2 * curves[name][1][1]
  assert curves["restart"][0] == [15 * 2 + 8 + 1, 63 * 2 + 8 + 1]  # two restarts of two steps of two calls


def test_every_sampler_is_shown_or_named_as_left_out():
  shown = [name for name in from_config.SAMPLERS if script.follows_ode(name) or script.draws_noise(name)]
  assert sorted([*shown, "adaptive", *script.LEFT_OUT]) == sorted(from_config.SAMPLERS)


def test_picture_is_written_where_asked(tmp_path):
  script.main(["plots", "schedules", f"--out={tmp_path / 'picture.png'}"])
  assert min(Image.open(tmp_path / "picture.png").size) > 500


@pytest.mark.parametrize("argv", [["plots"], ["plots", "networks"]])
def test_other_pictures_are_refused(argv):
  with pytest.raises(SystemExit, match=r"there is no plot '.*'; choose 'schedules' or 'samplers'"):
    script.main(argv)


def test_where_to_write_is_looked_at_first():
  with pytest.raises(SystemExit, match=r"--out=x\.txt has no known image suffix"):
    script.main(["plots", "samplers", "--out=x.txt"])
