"""How a tower wants its pictures is read from its folder, where that says so."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import networks, pretrained

HALF = (0.5, 0.5, 0.5)
SAID = {"mean": HALF, "std": HALF, "crop": False}


@pytest.mark.parametrize(
  ("name", "content", "says"),
  [
    (None, {}, {}),
    ("preprocessor_config.json", {}, {}),
    ("preprocessor_config.json", {"image_mean": HALF, "image_std": HALF, "do_center_crop": False}, SAID),
    ("preprocessor_config.json", {"image_std": [1, 2, 3], "size": 7}, {"std": (1.0, 2.0, 3.0)}),
    ("open_clip_config.json", {"model_cfg": {}}, {}),
    ("open_clip_config.json", {"preprocess_cfg": {"mean": HALF, "std": HALF, "resize_mode": "squash"}}, SAID),
    ("open_clip_config.json", {"preprocess_cfg": {"resize_mode": "shortest"}}, {"crop": True}),
  ],
)
def test_what_a_folder_says(tmp_path, name, content, says):
  if name:
    (tmp_path / name).write_text(json.dumps(content))
  assert pretrained.load_preprocessing(tmp_path) == says


@pytest.mark.parametrize(
  ("name", "content", "says"),
  [
    ("preprocessor_config.json", {"image_mean": [0.5, 0.5]}, "mean"),
    ("preprocessor_config.json", {"image_mean": ["0", 0, 0]}, "mean"),
    ("preprocessor_config.json", {"image_mean": [10**400, 0, 0]}, "mean"),
    ("preprocessor_config.json", {"image_std": [0.5, 0.5, 0]}, "three numbers, above 0"),
    ("preprocessor_config.json", {"do_center_crop": "no"}, "true or false"),
    ("preprocessor_config.json", [], "JSON object"),
    ("open_clip_config.json", {"preprocess_cfg": 3}, "expected an object"),
    ("open_clip_config.json", {"preprocess_cfg": {"resize_mode": "longest"}}, "shortest or squash"),
  ],
)
def test_what_is_none_is_refused(tmp_path, name, content, says):
  (tmp_path / name).write_text(json.dumps(content))
  with pytest.raises(ValueError, match=says):
    pretrained.load_preprocessing(tmp_path)


@pytest.mark.slow
def test_pictures_are_prepared_as_it_says():
  images = jax.random.uniform(jax.random.key(0), (2, 8, 12, 3), minval=-1.0)
  tower = networks.ImageEncoder(image_size=8, patch=4, width=16, layers=1, heads=2, features=6)
  siglip = tower.clone(pooling="attention")
  of = lambda tower, **said: networks.ImageFeatures(
    tower.init(jax.random.key(1), jnp.zeros((1, 8, 8, 3))), tower, **said
  )
  np.testing.assert_array_equal(of(siglip)(images), of(siglip, **SAID)(images))
  changed = of(tower, **SAID)(images)
  prepared = networks.preprocess(images, 8, mean=HALF, std=HALF, crop=False, clip=False)
  expected = networks.unit(tower.apply(of(tower).params, prepared).features)
  np.testing.assert_allclose(changed, expected, atol=1e-6)
  assert np.abs(changed - of(tower)(images)).max() > 1e-3
