"""Guidance that a config names, and configs of before it could."""

import json

import jax
import numpy as np
import pytest

from diffjax import from_config, guidance, runs
from diffjax.from_config import configuration

pytestmark = pytest.mark.slow


def test_the_defaults_are_neutral(tiny):
  config = tiny()
  denoiser = object()
  assert from_config.guided(config, denoiser) is denoiser
  free = from_config.guided(config, denoiser, {"label": 10}, 2.0)
  low, high = free.interval
  assert isinstance(free, guidance.ClassifierFree) and free.scale == 2.0 and free.rescale == 0
  assert low == 0 and high > 1e5


def test_a_config_reaches_threshold_interval_and_rescale(tiny):
  config = tiny()
  config.model.num_classes = 10
  config.sampler.update(guidance_interval=(0.2, 3.0), guidance_rescale=0.5)
  config.sampler.threshold = dict(name="dynamic", quantile=0.9)
  config = configuration.from_json(config.to_json())
  from_config.check(config)
  made = from_config.guided(config, None, {"label": 10}, 2)
  assert made == guidance.DynamicThreshold(
    guidance.ClassifierFree(None, {"label": 10}, 2.0, (0.2, 3.0), 0.5), quantile=0.9
  )
  config.sampler.threshold = dict(name="static", bound=0.5)
  assert from_config.guided(config, None) == guidance.StaticThreshold(None, 0.5)


@pytest.mark.parametrize(
  ("fields", "says"),
  [
    (dict(guidance_interval=(3.0, 0.2)), "guidance_interval"),
    (dict(guidance_rescale=1.5), "guidance_rescale"),
    (dict(threshold=dict(name="dynamc")), r"there is no threshold 'dynamc' \(did you mean 'dynamic'"),
    (dict(threshold=dict(name="static", quantile=0.9)), "has no parameter 'quantile'"),
  ],
)
def test_check_refuses(tiny, fields, says):
  config = tiny()
  config.sampler.update(fields)
  with pytest.raises(ValueError, match=says):
    from_config.check(config)


def test_a_run_of_before_these_keys_is_read_and_goes_on(tmp_path, tiny):
  config = tiny()
  runs.claim(tmp_path, config)
  path = tmp_path / runs.CONFIG
  old = json.loads(path.read_text())
  for key in from_config.KINDS["diffusion"].NEW_KEYS:
    section, name = key.split(".")
    del old[section][name]
  path.write_text(json.dumps(old))
  (tmp_path / runs.CHECKPOINTS / "3").mkdir(parents=True)
  assert not configuration.differences(runs.read_config(tmp_path), config)
  runs.claim(tmp_path, config)
  del old["sampler"]["guidance_scale"]
  path.write_text(json.dumps(old))
  with pytest.raises(ValueError, match=r"lacks sampler\.guidance_scale"):
    runs.read_config(tmp_path)


def test_runs_draw_with_them(tiny):
  config = tiny()
  config.model.num_classes = 10
  params = jax.tree.map(
    lambda p: 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), from_config.initial_state(config).params
  )
  draw = lambda **options: runs.Run(config, params, 0).draw(4, steps=3, sampler="euler", **options)
  plain = draw()
  config.sampler.threshold = dict(name="static", bound=0.1)
  thresholded = draw()
  assert not np.array_equal(plain, thresholded)
  assert np.abs(thresholded.astype(int) - 127).max() <= 14
  config.sampler.threshold = dict(name="none")
  strong, weak = (lambda scale=scale: draw(labels=np.arange(4), guidance_scale=scale) for scale in (9.0, 1.0))
  assert not np.array_equal(strong(), weak())
  config.sampler.guidance_interval = (50.0, 60.0)
  np.testing.assert_array_equal(strong(), weak())
