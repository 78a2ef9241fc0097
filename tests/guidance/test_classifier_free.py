import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffjax
from diffjax import grids, guidance, samplers
from diffjax.arrays import expand

MEANS = jnp.array([-1.0, 0.5, 2.0, 0.25])  # of the classes 0..2, and of no class: the last
LABEL = {"label": jnp.array([0, 1, 2])}
NULL = {"label": jnp.asarray(3)}
STD = 0.6


class ByClass:
  """The ideal conditional denoiser of Gaussian classes of one std."""

  def __init__(self):
    self.batches = []

  def __call__(self, x, sigma, cond=None, *, key=None):
    self.batches.append((x.shape[0], None if key is None else key.shape[0]))
    mean, variance = expand(MEANS[cond["label"]], x), expand(jnp.square(sigma), x)
    return (mean * variance + STD**2 * x) / (variance + STD**2)


def guided(**fields):
  return guidance.ClassifierFree(ByClass(), NULL, **fields)


def x(num=3):
  return 2 * jax.random.normal(jax.random.key(0), (num, 4, 4, 1))


@pytest.mark.parametrize("sigma", [jnp.asarray(0.8), jnp.array([0.1, 0.8, 5.0])], ids=["[]", "[B]"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_closed_form(scale, sigma):
  # densities p(x | c)^w p(x)^(1 - w) of Gaussians with one variance are Gaussian, with mean w m_c + (1 - w) m
  mean = scale * MEANS[:3] + (1 - scale) * MEANS[3]
  variance = expand(jnp.square(sigma), x())
  expected = (expand(mean, x()) * variance + STD**2 * x()) / (variance + STD**2)
  np.testing.assert_allclose(guided(scale=scale)(x(), sigma, LABEL), expected, atol=2e-6)


def test_scales_zero_and_one_are_the_two_models():
  null = {"label": jnp.full(3, 3)}
  np.testing.assert_allclose(guided(scale=1.0)(x(), 0.8, LABEL), ByClass()(x(), 0.8, LABEL), atol=1e-6)
  np.testing.assert_allclose(guided(scale=0.0)(x(), 0.8, LABEL), ByClass()(x(), 0.8, null), atol=1e-6)


def test_samples_reach_the_tilted_mean():
  keys = jax.random.split(jax.random.key(0), 3)
  sigmas = grids.karras(40)
  start = sigmas[0] * jax.random.normal(jax.random.key(1), (3, 30, 30, 1))
  drawn = diffjax.sample(guided(scale=3.0), samplers.Heun(), start, sigmas, key=keys, cond=LABEL)
  np.testing.assert_allclose(drawn.mean((1, 2, 3)), 3 * MEANS[:3] - 2 * MEANS[3], atol=0.07)
  np.testing.assert_allclose(drawn.std((1, 2, 3)), STD, rtol=0.1)


def test_one_call_on_the_doubled_batch():
  guide = guided(scale=2.0)
  guide(x(), jnp.asarray(0.8), LABEL, key=jax.random.split(jax.random.key(0), 3))
  assert guide.denoiser.batches == [(6, 6)]


def test_scale_of_each_sample():
  scales = jnp.array([0.0, 1.0, 4.0])
  together = guided(scale=scales)(x(), 0.8, LABEL)
  for i, scale in enumerate(scales):
    np.testing.assert_allclose(together[i], guided(scale=scale)(x(), 0.8, LABEL)[i], atol=1e-6)


def test_interval():
  guide = guided(scale=4.0, interval=(0.5, 2.0))
  sigma = jnp.array([0.1, 1.0, 3.0])
  plain, strong = ByClass()(x(), sigma, LABEL), guided(scale=4.0)(x(), sigma, LABEL)
  np.testing.assert_allclose(guide(x(), sigma, LABEL), jnp.stack([plain[0], strong[1], plain[2]]), atol=1e-6)


def test_rescale_restores_the_standard_deviation_of_each_sample():
  plain = ByClass()(x(), 0.8, LABEL)
  strong = guided(scale=5.0)(x(), 0.8, LABEL)
  # this oracle's guidance moves only the mean; a denoiser that stretches shows the scale
  stretch = lambda x, sigma, cond, key: expand(jnp.where(cond["label"] == 3, 1.0, 2.0), x) * x
  guide = lambda rescale: guidance.ClassifierFree(stretch, NULL, 5.0, rescale=rescale)(x(), 0.8, LABEL)
  std = lambda pictures: np.asarray(pictures).std((1, 2, 3))
  np.testing.assert_allclose(guide(1.0), 2 * x(), rtol=1e-5)
  np.testing.assert_allclose(std(guide(0.0)), 3 * std(2 * x()), rtol=1e-5)  # 1 + 5 * (2 - 1) = 6
  np.testing.assert_allclose(guide(0.5), (guide(0.0) + guide(1.0)) / 2, rtol=1e-5)
  np.testing.assert_allclose(std(strong), std(plain), rtol=1e-5)


def test_batch_mates_do_not_matter():
  guide = guided(scale=5.0, rescale=0.7)
  whole = guide(x(), 0.8, LABEL)
  alone = guide(x()[1:2], 0.8, {"label": LABEL["label"][1:2]})
  np.testing.assert_allclose(whole[1:2], alone, atol=1e-6)


def test_gradient_of_a_constant_picture_is_finite():
  flat = lambda x, sigma, cond, key: x
  guide = guidance.ClassifierFree(flat, NULL, 2.0, rescale=0.5)
  gradient = jax.grad(lambda x: guide(x, 0.8, LABEL).sum())(jnp.zeros((3, 4, 4, 1)))
  assert np.all(np.isfinite(gradient))


def test_under_jit_float32_stays_float32(x64):
  narrow = x().astype(jnp.float32)
  drawn = jax.jit(lambda x: guided(scale=2.0, rescale=0.5)(x, jnp.asarray(0.8, jnp.float32), LABEL))(narrow)
  assert drawn.dtype == jnp.float32


@pytest.mark.parametrize("cond", [None, {"text": jnp.zeros(3)}])
def test_a_cond_unlike_the_null_one_is_refused(cond):
  with pytest.raises(ValueError, match=r"null_cond is \['label'\]"):
    guided(scale=2.0)(x(), 0.8, cond)


@pytest.mark.parametrize(
  ("fields", "cond", "says"),
  [
    ({}, {"label": jnp.array([0, 1])}, r"cond has an entry of shape \(2,\), but x has 3 samples"),
    ({}, {"label": jnp.asarray(0)}, r"cond has an entry of shape \(\), but x has 3 samples"),
    ({"scale": jnp.ones(2)}, LABEL, r"one for each of x's 3 samples, got shape \(2,\)"),
    ({"interval": None}, LABEL, "interval is None, but must be"),
    ({"interval": (1.0,)}, LABEL, "interval is .*, but must be"),
  ],
)
def test_what_does_not_fit_the_batch_is_refused(fields, cond, says):
  with pytest.raises(ValueError, match=says):
    guided(**fields)(x(), jnp.asarray(0.8), cond)
