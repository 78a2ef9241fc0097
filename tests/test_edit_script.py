"""Drawing from a picture: Run.draw and sample.py with an init image, a mask and a strength."""

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_runs import a_run, assert_close, saved

from diffjax import editing, from_config
from sample import draw

pytestmark = pytest.mark.slow

DIGIT = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8, 1)
UPPER = np.arange(8)[:, None] < np.full(8, 4)


@pytest.fixture
def run(tiny):
  return a_run(tiny())


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, tiny_data):
  import tiny_config

  config = tiny_config.get_config()
  config.data.data_dir = str(tiny_data)
  workdir = tmp_path_factory.mktemp("run")
  saved(workdir, config)
  return workdir


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """Pictures larger than the model's, and files that are none."""
  folder = tmp_path_factory.mktemp("pictures")
  Image.fromarray(np.kron(DIGIT[..., 0], np.ones((5, 5), np.uint8))).save(folder / "digit.png")
  Image.fromarray(np.kron(UPPER * np.uint8(255), np.ones((3, 3), np.uint8))).convert("RGB").save(folder / "mask.png")
  Image.new("L", (80, 40)).save(folder / "wide.png")
  (folder / "text.png").write_text("no picture")
  return folder


def test_mask_keeps_and_draws(run):
  drawn = run.draw(5, init_image=DIGIT, mask=UPPER, seed=3)
  np.testing.assert_array_equal(drawn[:, ~UPPER], np.broadcast_to(DIGIT[~UPPER], (5, 32, 1)))
  assert len(np.unique(drawn[:, UPPER], axis=0)) == 5
  other = run.draw(5, init_image=np.where(UPPER[..., None], np.uint8(9), DIGIT), mask=UPPER, seed=3)
  np.testing.assert_array_equal(drawn, other)  # what lies in the hole does not matter
  assert not np.array_equal(drawn, run.draw(5, init_image=DIGIT, mask=UPPER, strength=0.5, seed=3))


def test_agrees_with_editing_by_hand(run):
  config = run.config
  drawn = run.draw(2, init_image=DIGIT, strength=0.5, steps=6, seed=5, sampler="euler")
  denoiser, sigmas = from_config.denoiser(config, jax.device_put(run.params)), from_config.grid(config, 6)
  keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(5), number))(np.arange(2))
  x0 = np.broadcast_to(DIGIT.astype(np.float32) / 127.5 - 1, (2, 8, 8, 1))
  by_hand = editing.img2img(denoiser, from_config.sampler(config, "euler"), x0, sigmas, strength=0.5, key=keys)
  assert_close(drawn, np.round(np.clip(np.asarray(by_hand) * 127.5 + 127.5, 0, 255)).astype(np.uint8))


def test_batches_and_trajectory(run):
  for options in ({"strength": 0.75}, {"mask": UPPER, "sampler": "ddpm"}):
    whole, path = run.draw(5, init_image=DIGIT, trajectory=True, **options)
    assert_close(run.draw(5, init_image=DIGIT, batch_size=2, **options), whole)
    assert path.shape == (4 if "strength" in options else 5, 5, 8, 8, 1)
    np.testing.assert_array_equal(path[-1], whole)


def test_another_picture_or_mask_compiles_nothing(run, compilations):
  edit = lambda image, mask, seed: run.draw(3, init_image=image, mask=mask, seed=seed)
  edit(DIGIT, UPPER, 0)
  before = compilations()
  assert before > 0
  edit(255 - DIGIT, ~UPPER, 1)
  assert compilations() == before


@pytest.mark.parametrize(
  ("options", "says"),
  [
    ({"init_image": DIGIT, "strength": 0.0}, "strength is 0.0, but must be above 0 and at most 1"),
    ({"init_image": DIGIT, "strength": 1.5}, "strength is 1.5"),
    ({"init_image": DIGIT, "mask": UPPER, "strength": -1.0}, "strength is -1.0"),
    ({"mask": UPPER}, "a mask needs an init image"),
    ({"strength": 0.5}, "strength needs an init image"),
    ({"init_image": DIGIT[:4]}, r"init_image is uint8 \(4, 8, 1\), but this model draws uint8 \(8, 8, 1\)"),
    ({"init_image": DIGIT / 255}, "init_image is float64"),
    ({"init_image": DIGIT, "mask": UPPER * 1.0}, "mask is float64"),
  ],
)
def test_mistakes(run, options, says):
  with pytest.raises(ValueError, match=says):
    run.draw(2, **options)


def test_files_are_brought_to_the_models_size(workdir, files, tmp_path):
  images = draw(workdir, tmp_path, num=3, init_image=files / "digit.png", mask=files / "mask.png")
  kept = images[:, ~UPPER].astype(int) - DIGIT[~UPPER]
  assert np.abs(kept).max() <= 8 and not np.any(kept - kept[0])  # what resizing changed, and nothing else
  weak = draw(workdir, tmp_path, num=3, init_image=files / "digit.png", strength=0.2, steps=5)
  strong = draw(workdir, tmp_path, num=3, init_image=files / "digit.png", strength=1.0, steps=5)
  distance = lambda images: np.abs(images.astype(int) - DIGIT).mean()
  assert distance(weak) < distance(strong)


def test_script_draws_from_a_picture(script, workdir, files, tmp_path):
  pictures = [f"--init_image={files / 'digit.png'}", f"--mask={files / 'mask.png'}", "--num=2"]
  process = script("sample.py", f"--workdir={workdir}", f"--out={tmp_path / 'out'}", *pictures)
  out, err = process.communicate(timeout=120)
  assert (process.returncode, err) == (0, "") and out.startswith("2 images from step 4")
  assert np.load(tmp_path / "out" / "samples.npz")["images"].shape == (2, 8, 8, 1)


@pytest.mark.parametrize(
  ("given", "says"),
  [
    ({"init_image": "nowhere.png"}, "there is no file .*nowhere.png; give the path of an image"),
    ({"init_image": "text.png"}, r"text.png cannot be read \(not an image, or damaged\); give an image file"),
    ({"init_image": "digit.png", "mask": "nowhere.png"}, "there is no file .*nowhere.png"),
    ({"init_image": "wide.png", "mask": "mask.png"}, "mask.png is 24 x 24 and .*wide.png 80 x 40 pixels; give both"),
    ({"mask": "mask.png"}, "a mask needs an init image"),
  ],
)
def test_files_that_do_not_do(workdir, files, tmp_path, given, says):
  with pytest.raises(ValueError, match=says):
    draw(workdir, tmp_path / "out", **{name: files / file for name, file in given.items()})
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("arguments", "says"),
  [
    (["--init_image=nowhere.png"], "there is no file nowhere.png; give the path of an image."),
    (["--strength=2"], "strength needs an init image"),
  ],
)
def test_processes_end_with_one_sentence(script, workdir, tmp_path, arguments, says):
  process = script("sample.py", f"--workdir={workdir}", f"--out={tmp_path / 'out'}", *arguments)
  out, err = process.communicate(timeout=120)
  assert (process.returncode, out) == (1, "")
  assert err.startswith("error: ") and err.count("\n") == 1 and says in err
