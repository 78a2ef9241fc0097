"""CLIP's and SigLIP's losses against their definitions in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.losses.contrastive import clip_loss, siglip_loss, sigmoid_losses, softmax_losses

LOGITS = np.random.default_rng(0).normal(size=(4, 4)) * 3


def log_softmax(a):
  return a - np.log(np.exp(a).sum(1, keepdims=True))


def test_clip_loss_of_the_diagonal():
  expected = -(np.diag(log_softmax(LOGITS)).mean() + np.diag(log_softmax(LOGITS.T)).mean()) / 2
  np.testing.assert_allclose(clip_loss(jnp.asarray(LOGITS)), expected, rtol=1e-6)


def test_siglip_loss_of_the_diagonal():
  signs = 2 * np.eye(4) - 1
  expected = np.log1p(np.exp(-signs * LOGITS)).sum() / 4
  np.testing.assert_allclose(siglip_loss(jnp.asarray(LOGITS)), expected, rtol=1e-6)


def test_several_right_texts_share_the_probability():
  pairs = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], bool)
  rows, columns = log_softmax(LOGITS), log_softmax(LOGITS.T)
  mean = lambda a: -(a[0, :2].mean() + a[1, :2].mean() + a[2, 2]) / 3
  np.testing.assert_allclose(clip_loss(jnp.asarray(LOGITS), pairs), (mean(rows) + mean(columns)) / 2, rtol=1e-6)


def test_losses_are_least_at_the_pairs():
  """Large logits at the pairs give the least that the loss can be: nothing, or the entropy of what is shared."""
  pairs = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], bool)
  logits = jnp.where(pairs, 30.0, -30.0)
  np.testing.assert_allclose(clip_loss(logits, pairs), np.log(2) * 2 / 3, rtol=1e-5)
  np.testing.assert_allclose(siglip_loss(logits, pairs), 0, atol=1e-6)
  np.testing.assert_allclose(jax.grad(clip_loss)(logits, pairs), 0, atol=1e-6)


def test_no_pair_at_all_has_no_gradient():
  pairs = np.zeros((2, 3), bool)
  gradient = jax.grad(clip_loss)(jnp.ones((2, 3)), pairs)
  np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("loss", [clip_loss, siglip_loss])
@pytest.mark.parametrize(
  "logits, pairs", [((2, 3), None), ((4,), None), ((2, 2), np.zeros((2, 3), bool)), ((2, 2), np.eye(2))]
)
def test_shapes_that_do_not_fit(loss, logits, pairs):
  with pytest.raises(ValueError, match="expected"):
    loss(jnp.zeros(logits), pairs)


def test_losses_of_some_rows_are_those_of_all():
  """Rows apart, with all their columns, have the losses that the whole table's mean is of."""
  pairs = np.random.default_rng(1).random((4, 4)) < 0.5
  logits = jnp.asarray(LOGITS, jnp.float32)
  parts = [softmax_losses(logits[i : i + 2], pairs[i : i + 2]) for i in (0, 2)]
  np.testing.assert_allclose(np.concatenate(parts), softmax_losses(logits, pairs), rtol=1e-6)
  np.testing.assert_allclose(sigmoid_losses(logits, pairs).mean(), siglip_loss(logits, pairs), rtol=1e-6)
