"""Views of a picture: exact where they change nothing, and each change by itself."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import guidance, randomness
from diffjax.guidance.energies.views import luma, resampling, rotate, turn_hue

pytestmark = pytest.mark.slow

IMAGES = jax.random.uniform(jax.random.key(0), (64, 12, 12, 3), minval=-1.0)
KEYS = randomness.sample_keys(jax.random.key(1), 64)
STILL = dict(flip=0.0, gray=0.0, translate=0.0, jitter=0.0, hue=0.0, noise=0.0, degrees=0.0, size=12)


def cutouts(**fields):
  return guidance.Cutouts(**(STILL | {"overview": 1, "inner": 1} | fields))


def test_an_overview_without_changes_is_the_picture():
  np.testing.assert_allclose(cutouts()(IMAGES, KEYS, 0), IMAGES, atol=1e-5)


def test_an_overview_of_an_oblong_picture_has_black_bars():
  view = cutouts()(IMAGES[:, :6], KEYS, 0)
  np.testing.assert_allclose(view[:, 3:9], IMAGES[:, :6], atol=1e-5)
  np.testing.assert_allclose(view[:, jnp.array([0, 1, 10, 11])], -1, atol=1e-5)


def test_an_overview_of_a_very_oblong_picture_is_mostly_black():
  view = cutouts(size=60)(jnp.zeros((1, 60, 10, 3)), KEYS[:1], 0)
  np.testing.assert_allclose(view[:, :, 26:34], 0, atol=1e-5)
  np.testing.assert_allclose(view[:, :, :20], -1, atol=1e-5)


def test_inner_cuts_lie_inside_and_vary_in_size():
  """A ramp tells where a cut lies: its pixels rise by side / size, from the corner on."""
  ramp = jnp.broadcast_to(jnp.linspace(-1, 1, 40)[None, :, None, None], (64, 40, 40, 1))
  views = cutouts(size=8)(ramp, KEYS, 1)
  sides = (views[:, 5, 4, 0] - views[:, 2, 4, 0]) / 3 * 8 / (2 / 39)
  assert 7.9 < sides.min() < 12 and 34 < sides.max() < 40.1
  few = cutouts(size=8, cut_pow=4.0)(ramp, KEYS, 1)
  assert (few[:, 5] - few[:, 2]).mean() < 0.7 * (views[:, 5] - views[:, 2]).mean()
  assert np.abs(views).max() <= 1 + 1e-5


def test_resampling_keeps_a_constant_and_doubles_as_interpolation():
  for side, size in ((10.0, 10), (7.3, 5), (4.0, 16)):
    np.testing.assert_allclose(resampling(20, 5.0, side, size).sum(1), 1, rtol=1e-5)
  assert resampling(20, -2.0, 4.0, 2).sum(1)[0] < 0.3  # mostly outside
  line = jnp.arange(8.0)
  halves = [(0 * 3 + 1 * 3 + 2) / 7, 2.5, 4.5, (5 + 6 * 3 + 7 * 3) / 7]  # a triangle two pixels wide
  np.testing.assert_allclose(resampling(8, 0.0, 8.0, 4) @ line, halves, atol=1e-5)
  np.testing.assert_allclose((resampling(8, 2.0, 4.0, 8) @ line)[2:6], [2.75, 3.25, 3.75, 4.25], atol=1e-5)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns(turns):
  turned = rotate(IMAGES[0], turns * jnp.pi / 2)
  np.testing.assert_allclose(turned[1:-1, 1:-1], np.rot90(IMAGES[0], turns)[1:-1, 1:-1], atol=1e-4)


def test_flips_grays_and_noise_as_often_as_asked():
  flipped = cutouts(flip=0.5)(IMAGES, KEYS, 0)
  mirrored = np.isclose(flipped, IMAGES[:, :, ::-1], atol=1e-4).all((1, 2, 3))
  assert (mirrored ^ np.isclose(flipped, IMAGES, atol=1e-4).all((1, 2, 3))).all() and 16 < mirrored.sum() < 48
  gray = np.ptp(cutouts(gray=0.25)(IMAGES, KEYS, 0), axis=-1).max((1, 2)) < 1e-5
  assert 6 < gray.sum() < 28
  noise = cutouts(noise=0.1)(IMAGES, KEYS, 0) - IMAGES
  assert float(noise.std()) == pytest.approx(0.1, rel=0.02)
  np.testing.assert_allclose(np.ptp(luma(IMAGES), axis=-1), 0, atol=1e-6)


def test_jitter_changes_brightness_within_its_range():
  plain = jnp.full((64, 12, 12, 3), 0.5)
  seen = cutouts(jitter=0.1)(plain, KEYS, 0)
  assert 1.34 < float((seen + 1).min()) < 1.42 and 1.58 < float((seen + 1).max()) < 1.66


def test_turns_of_hue_add_up_to_once_around_the_circle_and_keep_luma():
  hue = lambda colours: np.array([colorsys.rgb_to_hsv(*colour)[0] for colour in colours])
  colours = jnp.array([colorsys.hsv_to_rgb(hue, 0.5, 0.8) for hue in np.linspace(0, 1, 12, endpoint=False)])
  turned, moved = colours, 0
  for _ in range(20):
    before, turned = hue(turned), turn_hue(turned, 2 * jnp.pi / 20)
    step = (hue(turned) - before + 0.5) % 1 - 0.5
    assert step.min() > 0  # red towards green
    moved += step
    np.testing.assert_allclose(luma(turned), luma(colours), atol=1e-5)
  np.testing.assert_allclose(moved, 1, atol=1e-4)
  np.testing.assert_allclose(turned, colours, atol=1e-5)
  gray = jnp.broadcast_to(jnp.linspace(-1, 1, 5)[:, None], (5, 3))
  np.testing.assert_allclose(turn_hue(gray, 0.3), gray, atol=1e-5)
  np.testing.assert_array_equal(turn_hue(gray[:, :1], 0.3), gray[:, :1])


def test_views_differ_in_hue():
  seen = cutouts(hue=0.1)(IMAGES, KEYS, 0)
  np.testing.assert_allclose(luma(seen), luma(IMAGES), atol=1e-5)
  angles = 2 * np.pi * 0.1 * np.array([-1, 1])
  furthest = max(float(jnp.abs(turn_hue(IMAGES, angle) - IMAGES).mean()) for angle in angles)
  changes = jnp.abs(seen - IMAGES).mean((1, 2, 3))
  assert 0.9 * furthest < float(changes.max()) < 1.2 * furthest and float(changes.min()) < 0.1 * furthest


def test_number_of_views_follows_the_noise():
  views = cutouts(overview=((6.1, 12), (0.0, 4)), inner=jax.tree_util.Partial(lambda sigma: 2 * sigma))
  for sigma, overview, inner in ((7.0, 12, 14), (6.0, 4, 12), (jnp.array([0.5, 1.0]), 4, 2)):
    there = views.at(jnp.asarray(sigma))
    assert (int(there.overview), int(there.inner), int(there.count)) == (overview, inner, overview + inner)


def test_views_are_differentiable_and_a_pictures_own():
  views = guidance.Cutouts(size=8)
  slope = jax.grad(lambda x0: jnp.square(views(x0, KEYS[:4], 1)).sum())(IMAGES[:4])
  assert np.isfinite(slope).all() and np.abs(slope).max() > 0
  np.testing.assert_allclose(views(IMAGES, KEYS, 1)[5:7], views(IMAGES[5:7], KEYS[5:7], 1), atol=1e-5)
