"""Sampling from a run: each image depends only on its index, and no option causes recompilation."""

import dataclasses
import errno
import subprocess
import sys

import jax
import numpy as np
import pytest
from tiny_runs import a_run, assert_close, saved

from diffjax import DiffjaxWarning, from_config, plots, runs, sample, samplers
from diffjax.from_config import configuration
from diffjax.guidance import ClassifierFree


@pytest.fixture
def run(tiny):
  return a_run(tiny())


@pytest.fixture
def conditional(tiny):
  config = tiny()
  config.model.num_classes = 10
  return a_run(config)


def test_same_seed_same_pictures(run):
  first, again, other = run.draw(6, seed=1), run.draw(6, seed=1), run.draw(6, seed=2)
  assert first.shape == (6, 8, 8, 1) and first.dtype == np.uint8
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)
  assert len(np.unique(first, axis=0)) == 6


@pytest.mark.parametrize("sampler", [pytest.param("euler", marks=pytest.mark.slow), "dpmpp_2m_sde"])
def test_batches_do_not_change_pictures(run, sampler):
  whole = run.draw(10, sampler=sampler, eta=1.0)
  for size in (4, 10, 256):
    assert_close(run.draw(10, sampler=sampler, eta=1.0, batch_size=size), whole)
  assert_close(run.draw(3, sampler=sampler, eta=1.0), whole[:3])


@pytest.mark.slow
def test_churn_of_the_config_draws_as_that_of_the_command_line(run):
  asked = run.draw(3, steps=6, sampler="heun", s_churn=2.0)
  config = run.config.copy_and_resolve_references()
  config.sampler.update(name="heun", options={"s_churn": 2.0})
  np.testing.assert_array_equal(dataclasses.replace(run, config=config).draw(3, steps=6), asked)


@pytest.mark.slow
def test_a_grid_on_which_restart_never_restarts_is_refused(run):
  """The grid ends at 0.1, above the default t_min; or, shortened, begins below it."""
  with pytest.raises(ValueError, match=r"restart begins at sigma 0\.06, but the grid goes from 8 to 0\.1"):
    run.draw(2, sampler="restart")
  picture = np.zeros((8, 8, 1), np.uint8)
  with pytest.raises(ValueError, match=r"restart begins at sigma 0\.5, but the grid goes from"):
    run.draw(2, sampler="restart", t_min=0.5, t_max=2.0, init_image=picture, strength=0.2)
  draw = lambda **options: run.draw(2, sampler="restart", t_min=0.5, t_max=2.0, **options)
  assert draw().shape == (2, 8, 8, 1) and (draw(num_steps=4) != draw()).any()
  run.config.sampler.name = "restart"
  with pytest.raises(ValueError, match="restart begins at sigma"):
    from_config.check(run.config)


@pytest.mark.slow
def test_adaptive_tells_its_network_calls(run):
  run.draw(3, sampler="adaptive", steps=2, rtol=1e-2, atol=1e-2)
  coarse = run.calls
  assert coarse.shape == (3,) and np.all((coarse - 2) % 6 == 0)  # one at each level, six an attempt
  run.draw(3, sampler="adaptive", steps=2, rtol=1e-4, atol=1e-4)
  assert run.calls.sum() > coarse.sum()
  run.draw(3)
  assert run.calls is None


@pytest.mark.slow
def test_trajectory_goes_from_noise_to_the_pictures(run):
  images, path = run.draw(5, steps=4, trajectory=True, batch_size=2)
  assert path.shape == (5, 5, 8, 8, 1) and path.dtype == np.uint8
  np.testing.assert_array_equal(path[-1], images)
  noise = path[0] / 127.5 - 1  # standard normal, clipped to [-1, 1] when it became grey
  assert abs(noise.mean()) < 0.15 and 0.7 < noise.std() < 0.9
  assert_close(run.draw(5, steps=4), images)


def test_agrees_with_sampling_by_hand(conditional):
  """A reference composed of guidance and grid directly, one image at a time."""
  config, labels = conditional.config, np.array([3, 7])
  drawn = conditional.draw(2, labels=labels, guidance_scale=2.0, seed=5, sampler="euler", steps=3)
  denoiser = ClassifierFree(from_config.denoiser(config, jax.device_put(conditional.params)), {"label": 10}, 2.0)
  sigmas = from_config.grid(config, 3)
  for number, label in enumerate(labels):
    key_start, key_path = jax.random.split(jax.random.fold_in(jax.random.key(5), number))
    x = sigmas[0] * jax.random.normal(key_start, (8, 8, 1))[None]
    cond = {"label": label[None].astype(np.int32)}
    x0 = sample(denoiser, from_config.sampler(config, "euler"), x, sigmas, key=key_path[None], cond=cond)
    expected = np.round(np.clip(np.asarray(x0[0]) * 127.5 + 127.5, 0, 255))
    assert np.abs(drawn[number].astype(int) - expected).max() <= 1


@pytest.mark.slow
def test_cfgpp_and_time_travel_wrap_the_sampler(conditional):
  config, label = conditional.config, np.array([3])
  drawn = conditional.draw(1, labels=label, guidance_scale=0.7, cfgpp=True, repeats=2, sampler="euler", steps=3)
  denoiser = ClassifierFree(from_config.denoiser(config, jax.device_put(conditional.params)), {"label": 10}, 0.7)
  method = samplers.Recurrent(samplers.MeanGuided(samplers.Euler()), 2)
  sigmas, cond = from_config.grid(config, 3), {"label": label.astype(np.int32)}
  key_start, key_path = jax.random.split(jax.random.fold_in(jax.random.key(0), 0))
  x = sigmas[0] * jax.random.normal(key_start, (8, 8, 1))[None]
  x0 = sample(denoiser, method, x, sigmas, key=key_path[None], cond=cond)
  expected = np.round(np.clip(np.asarray(x0) * 127.5 + 127.5, 0, 255))
  assert np.abs(drawn.astype(int) - expected).max() <= 1


def test_labels_change_pictures_and_no_label_is_the_null_label(conditional):
  threes, fours = (conditional.draw(4, labels=np.full(4, label)) for label in (3, 4))
  assert not np.array_equal(threes, fours)
  without = conditional.draw(4)
  guided_by_nothing = conditional.draw(4, labels=np.full(4, 3), guidance_scale=0.0)
  assert_close(without, guided_by_nothing)


def test_nothing_a_person_turns_compiles_again(conditional, compilations):
  draw = lambda seed, label, scale, **options: conditional.draw(
    4, steps=3, seed=seed, labels=np.full(4, label), guidance_scale=scale, **options
  )
  jax.jit(lambda x: x + 41)(1.0)
  assert compilations() == 1  # compilations do get counted
  draw(0, 1, 1.0, sampler="euler", eta=0.0)
  draw(0, 1, 1.0, sampler="heun", s_churn=1.0)
  before = compilations()
  assert before > 1
  draw(9, 4, 2.5, sampler="euler", eta=1.0)
  draw(9, 4, 2.5, sampler="euler")
  draw(7, 0, 3.0, sampler="heun", s_churn=5.0)
  assert compilations() == before
  draw(0, 1, 1.0, sampler="dpmpp_2m")
  assert compilations() > before


@pytest.mark.parametrize(
  ("options", "says"),
  [
    ({"num": 0}, "num is 0"),
    ({"num": 10**12}, "num is 1000000000000, but must be at most 268435456; draw fewer"),
    ({"batch_size": 0}, "batch_size is 0"),
    ({"steps": 0}, "num_steps is 0"),
    ({"sampler": "dpmp_2m"}, "did you mean 'dpmpp_2m'"),
    ({"grid": "karas"}, "did you mean 'karras'"),
    ({"sampler": "heun", "eta": 1.0}, "sampler 'heun' has no parameter 'eta'"),
    ({"s_churn": 3.0}, "sampler 'dpmpp_2m' has no parameter 's_churn'"),
    ({"labels": np.array([3, 10])}, r"labels 3\.\.10 .*; choose each from 0\.\.9"),
    ({"labels": np.array([-1, 3])}, r"labels -1\.\.3 .*; choose each from 0\.\.9"),
    ({"labels": np.array([1, 2, 3])}, "one label for each of the 2 images"),
    ({"guidance_scale": 2.0}, "guidance_scale needs a label"),
    ({"guidance_scale": np.nan, "labels": np.array([1, 2])}, "guidance_scale is nan, but must be finite"),
    ({"sampler": "euler", "eta": np.nan}, r"euler\.eta is nan, but must be in \[0, 1\]"),
    ({"sampler": "euler", "eta": 1.5}, r"euler\.eta is 1\.5"),
    ({"sampler": "heun", "s_churn": -1.0}, r"heun\.s_churn is -1\.0"),
    ({"seed": 2**63}, "seed is 9223372036854775808"),
    ({"cfgpp": True}, "cfgpp needs guidance by a label"),
    (
      {"cfgpp": True, "labels": np.array([1, 2]), "guidance_scale": 1.1},
      r"guidance_scale is 1\.1, but must lie in \[0, 1\] with cfgpp",
    ),
    ({"repeats": 0}, "repeats is 0"),
    ({"labels": [3, 10**20]}, "choose each from 0"),
  ],
)
def test_mistakes(conditional, options, says):
  with pytest.raises(ValueError, match=says):
    conditional.draw(**{"num": 2, **options})


def test_labels_for_a_model_without(run):
  with pytest.raises(ValueError, match="draws without labels"):
    run.draw(2, labels=np.zeros(2, int))


def test_a_run_is_its_folder(tmp_path, tiny):
  config = tiny()
  state = saved(tmp_path, config)
  loaded = runs.load_run(tmp_path)
  assert loaded.step == 4 and not configuration.differences(loaded.config, config)
  jax.tree.map(np.testing.assert_array_equal, loaded.params, state.ema[0])
  expected = runs.Run(config, state.ema[0], 4)
  np.testing.assert_array_equal(loaded.draw(3), expected.draw(3))
  assert loaded.data("test")["image"].shape == (360, 8, 8, 1)


def test_folders_that_hold_no_run(tmp_path, tiny):
  with pytest.raises(FileNotFoundError, match="holds no run"):
    runs.load_run(tmp_path / "nowhere")
  runs.claim(tmp_path, tiny())
  with pytest.raises(FileNotFoundError, match="holds no checkpoint yet"):
    runs.load_run(tmp_path)
  (tmp_path / runs.CHECKPOINTS).mkdir()
  with pytest.raises(FileNotFoundError, match="holds no checkpoint yet"):
    runs.load_run(tmp_path)
  (tmp_path / runs.CONFIG).write_text('{"data": {"na')
  with pytest.raises(ValueError, match=r"config\.json is not a valid run config"):
    runs.load_run(tmp_path)
  (tmp_path / runs.CONFIG).write_text('{"data": {"name": "digits"}}')
  with pytest.raises(ValueError, match="lacks"):
    runs.load_run(tmp_path)
  with pytest.raises(ValueError, match=r"config\.json is a file; give the folder"):
    runs.load_run(tmp_path / runs.CONFIG)


def test_a_folder_belongs_to_one_config(tmp_path, tiny):
  runs.claim(tmp_path, tiny())
  before = (tmp_path / runs.CONFIG).read_text()
  runs.claim(tmp_path, tiny())
  (tmp_path / runs.CHECKPOINTS / "3").mkdir(parents=True)
  with pytest.raises(ValueError, match=r"\(key: there, here\) train\.batch_size: 16, 32 and train\.steps: 8, 9; use"):
    runs.claim(tmp_path, tiny(steps=9, batch_size=32))
  assert (tmp_path / runs.CONFIG).read_text() == before


def test_a_first_try_without_a_checkpoint_gives_way(tmp_path, tiny):
  runs.claim(tmp_path, tiny())
  (tmp_path / runs.CHECKPOINTS / "3.orbax-checkpoint-tmp-1").mkdir(parents=True)
  runs.claim(tmp_path, tiny(steps=9))
  assert runs.read_config(tmp_path).train.steps == 9
  (tmp_path / runs.CONFIG).write_text('{"architecture": "of another program"}')
  with pytest.raises(ValueError, match="not a valid run config"):
    runs.claim(tmp_path, tiny())


def test_one_process_at_a_time(tmp_path, tiny):
  with runs.claimed(tmp_path / "run", tiny()):
    with pytest.raises(ValueError, match=r"another process trains in .*run; stop it, or use another --workdir"):
      with runs.claimed(tmp_path / "run", tiny(steps=9)):
        pass
    assert runs.read_config(tmp_path / "run").train.steps == 8
  with runs.claimed(tmp_path / "run", tiny()):
    pass
  with pytest.raises(ValueError, match="is a file"):
    with runs.claimed(tmp_path / "run" / runs.CONFIG, tiny()):
      pass


def test_a_killed_process_frees_its_folder(tmp_path, tiny):
  holder = (
    "import fcntl, sys, time; lock = open(sys.argv[1], 'a'); fcntl.flock(lock, fcntl.LOCK_EX);"
    " print(flush=True); time.sleep(60)"
  )
  process = subprocess.Popen([sys.executable, "-c", holder, tmp_path / runs.LOCK], stdout=subprocess.PIPE)
  process.stdout.readline()
  with pytest.raises(ValueError, match="another process trains"):
    with runs.claimed(tmp_path, tiny()):
      pass
  process.kill()
  process.communicate()
  with runs.claimed(tmp_path, tiny()):
    pass


def test_file_systems_without_locks(tmp_path, tiny, monkeypatch):
  def flock(*arguments):
    raise OSError(errno.ENOSYS, "Function not implemented")

  monkeypatch.setattr("fcntl.flock", flock)
  with pytest.warns(DiffjaxWarning, match="cannot be locked"), runs.claimed(tmp_path, tiny()):
    pass


def test_data_that_does_not_fit_the_model(tiny):
  config = tiny()
  config.model.num_classes = 7
  with pytest.raises(ValueError, match="has 7 classes, but 'digits' has 10 labels"):
    runs.load_data(config, "train")


def test_pictures_are_ones_that_plots_take(run):
  images, path = run.draw(3, trajectory=True)
  assert plots.grid(images).width > 0 and plots.film_strip(path).width > 0


def test_pictures_that_are_not_finite_are_an_error(run):
  broken = runs.Run(run.config, jax.tree.map(lambda p: np.full_like(p, np.nan), run.params), run.step)
  with pytest.raises(FloatingPointError, match="3 of 3 images are not finite"):
    broken.draw(3)
