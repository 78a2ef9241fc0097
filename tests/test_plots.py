"""Pictures checked by their pixels, files by reading them back."""

import errno
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from diffjax import plots
from diffjax.system import writing


def ramp(*shape):
  return (np.arange(np.prod(shape)) % 251).astype(np.uint8).reshape(shape)


def test_grid_places_every_pixel():
  images = ramp(5, 2, 3, 1) + 1
  sheet = np.asarray(plots.grid(images, columns=3, scale=4))
  assert sheet.shape == (2 * 8 + 3, 3 * 12 + 4, 3)
  for i, image in enumerate(images):
    y, x = 1 + i // 3 * 9, 1 + i % 3 * 13
    np.testing.assert_array_equal(sheet[y : y + 8 : 4, x : x + 12 : 4], np.broadcast_to(image, (2, 3, 3)))
    np.testing.assert_array_equal(sheet[y + 3 : y + 8 : 4, x + 3 : x + 12 : 4], np.broadcast_to(image, (2, 3, 3)))
  seams = [sheet[0], sheet[9], sheet[18], sheet[:, 0], sheet[:, 13], sheet[10:, 27:].reshape(-1, 3)]
  for seam in seams:  # the last is the empty sixth place
    np.testing.assert_array_equal(seam, np.broadcast_to(plots.SEAM, seam.shape))


def test_grid_keeps_colours_and_chooses_its_own_layout():
  images = ramp(9, 100, 80, 3)
  sheet = np.asarray(plots.grid(images))
  assert sheet.shape == (3 * 100 + 4 * 3, 3 * 80 + 4 * 3, 3)
  np.testing.assert_array_equal(sheet[106:206, 86:166], images[4])
  assert plots.grid(ramp(1, 8, 8, 1)).size == (7 * 8 + 4, 7 * 8 + 4)


def test_film_strip_has_a_row_a_picture_and_time_to_the_right():
  trajectory = np.broadcast_to(ramp(50, 2, 1, 1, 1) + 1, (50, 2, 64, 64, 1))
  strip = np.asarray(plots.film_strip(trajectory, frames=3))
  assert strip.shape == (2 * 66 + 2, 3 * 66 + 2, 3)
  np.testing.assert_array_equal(strip[34::66, 34::66, 0], trajectory[[0, 24, 49], :, 0, 0, 0].T)
  assert plots.film_strip(trajectory[:2]).width == 2 * 66 + 2
  scored = plots.film_strip(trajectory, frames=3, scores=np.zeros(trajectory.shape[:2]))
  assert scored.height > strip.shape[0] and scored.width == strip.shape[1]  # a score below each moment
  np.testing.assert_array_equal(np.asarray(plots.film_strip(trajectory, frames=1))[34, 34], trajectory[-1, 0, 0, 0, 0])


@pytest.mark.parametrize("channels", [1, 3])
def test_animation_plays_every_moment_and_holds_the_last(tmp_path, channels):
  trajectory = np.broadcast_to(20 * ramp(6, 1, 1, 1, 1) + 50, (6, 4, 8, 8, channels))
  plots.animation(trajectory, tmp_path / "a.gif", milliseconds=100, hold=1500)
  with Image.open(tmp_path / "a.gif") as gif:
    assert (gif.n_frames, gif.info["loop"], gif.size) == (6, 0, plots.grid(trajectory[0]).size)
    for i in range(6):
      gif.seek(i)
      assert gif.info["duration"] == (1500 if i == 5 else 100)
      assert gif.convert("L").getpixel((10, 10)) == pytest.approx(50 + 20 * i, abs=2)


def test_real_beside_drawn_shows_each_set_in_its_place():
  shades = [np.full((n, 8, 8, 1), shade, np.uint8) for n, shade in ((70, 10), (40, 90), (40, 170))]
  picture = plots.real_beside_drawn(*shades)
  sheet = np.asarray(picture)
  found = {shade: (sheet == shade).all(-1) for shade in (10, 90, 170)}  # captions and seams are never a pure grey
  assert [found[shade].sum() / 56**2 for shade in (10, 90, 170)] == [60, 40 + 20, 20]
  left = picture.width // 2
  middle = np.argwhere(found[10])[:, 0].max() + 2
  assert not found[10][:, left:].any() and not found[90][:middle, :left].any()
  assert found[90][:middle].sum() / 56**2 == 40
  upper, lower = (np.argwhere(found[shade][middle:])[:, 0] for shade in (90, 170))
  assert upper.max() < lower.min()
  with pytest.raises(ValueError, match="pass one nearest image per sample"):
    plots.real_beside_drawn(shades[0], shades[1], shades[2][:3])


@pytest.mark.parametrize("count", [1, 3, 10, 11])
def test_real_beside_drawn_takes_few_pictures(count):
  picture = plots.real_beside_drawn(*[ramp(count, 8, 8, 3)] * 3)
  assert picture.width > 600


def test_loss_curve_writes_a_picture_whatever_the_losses(tmp_path):
  steps = np.arange(200)
  losses = np.exp(-steps / 50.0)
  sizes = set()
  for i, values in enumerate((losses, losses - 0.5, np.where(steps == 7, np.nan, losses), np.full(200, np.inf))):
    plots.loss_curve(steps, values, tmp_path / f"{i}.png")
    sizes.add(Image.open(tmp_path / f"{i}.png").size)
  plots.loss_curve([], [], tmp_path / "none.png")
  assert sizes == {(960, 540)}
  assert len(list(tmp_path.iterdir())) == 5
  with pytest.raises(ValueError, match="two lists of one length"):
    plots.loss_curve(steps, losses[:9], tmp_path / "bad.png")


def test_running_mean_follows_a_line_and_averages_noise():
  line = np.arange(600.0)
  np.testing.assert_allclose(plots._running_mean(line)[10:-10], line[10:-10])
  noise = np.random.default_rng(0).standard_normal(6000)
  assert plots._running_mean(noise).std() < 0.1
  np.testing.assert_array_equal(plots._running_mean(line[:5]), line[:5])


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
  path = tmp_path / "new" / "a.txt"
  with writing.replacing(path) as part:
    part.write_text("old")
    assert not path.exists()
  with pytest.raises(OSError, match="disk"), writing.replacing(path) as part:
    part.write_text("ne")
    raise OSError("disk full")
  assert [file.name for file in path.parent.iterdir()] == ["a.txt"]
  assert path.read_text() == "old"


def test_a_full_disk_names_the_file(tmp_path):
  with pytest.raises(OSError, match=r"a\.txt cannot be written \(No space left on device\); make room"):
    with writing.replacing(tmp_path / "a.txt"):
      raise OSError(errno.ENOSPC, "No space left on device")
  with pytest.raises(FileNotFoundError, match="nowhere"), writing.naming(tmp_path / "a.txt"):
    (tmp_path / "nowhere").read_text()


@pytest.mark.skipif(not pathlib.Path("/proc/self").exists(), reason="takes a folder in which nobody can make a file")
def test_a_folder_that_takes_no_files_is_named():
  """The mode of /proc lets root write; making a file there fails with "No such file or directory"."""
  with pytest.raises(OSError, match=r"^nothing can be written to /proc/x; choose another folder with --out\.$"):
    writing.check_writable(pathlib.Path("/proc/x"))
  with pytest.raises(OSError, match=r"^/proc/x cannot be written \(.*\); choose another place"):
    with writing.replacing("/proc/x/a.txt"):
      pass


def test_the_check_leaves_nothing_and_refuses_files_and_broken_links(tmp_path):
  writing.check_writable(tmp_path / "new" / "deeper")
  assert not list(tmp_path.iterdir())
  (tmp_path / "file").touch()
  (tmp_path / "link").symlink_to(tmp_path / "nowhere")
  for name in ("file", "file/below", "link"):
    with pytest.raises(OSError, match=r"nothing can be written to .* choose another folder"):
      writing.check_writable(tmp_path / name)


@pytest.mark.parametrize("images", [np.zeros((2, 8, 8, 1)), ramp(2, 8, 8), ramp(2, 8, 8, 2), ramp(0, 8, 8, 1)])
def test_what_is_no_picture_is_refused(images):
  with pytest.raises(ValueError, match="give uint8"):
    plots.grid(images)


def test_bad_layouts_are_refused():
  images = ramp(2, 8, 8, 1)
  for bad in ({"columns": 0}, {"scale": 0}):
    with pytest.raises(ValueError, match="1 or more"):
      plots.grid(images, **bad)
  with pytest.raises(ValueError, match="frames is 0"):
    plots.film_strip(images[None], frames=0)


def test_matplotlib_is_not_imported_before_a_curve_is_drawn():
  code = (
    "import sys, diffjax.plots, diffjax.evaluation; sys.exit('matplotlib' in sys.modules or 'sklearn' in sys.modules)"
  )
  assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
