"""Losses that align images and texts: CLIP's softmax over the batch and SigLIP's sigmoid over pairs."""

import jax
import jax.numpy as jnp

from diffjax.typing import Array


def clip_loss(logits: Array, pairs: Array | None = None) -> Array:
  """Mean of the image-to-text and text-to-image cross-entropies (Radford et al. 2021, figure 3).

  Args:
    logits: float [B, T], scaled similarities of images and texts.
    pairs: bool [B, T], which belong together; None: the diagonal of square logits. Several pairs in a row (or column)
      are equally probable targets; a row without any is ignored.

  Returns:
    float32 [], averaged over the rows, and over the columns, that have a pair.

  Raises:
    ValueError: if the shapes are not both [B, T], pairs are not bool, or pairs is None and logits are not square.
  """
  logits, pairs = _checked(logits, pairs)
  return (_mean_of_paired(logits, pairs) + _mean_of_paired(logits.T, pairs.T)) / 2


def _mean_of_paired(logits, pairs):
  return softmax_losses(logits, pairs).sum() / jnp.maximum(pairs.any(axis=1).sum(), 1)


def softmax_losses(logits: Array, pairs: Array) -> Array:
  """One direction of `clip_loss` for some rows [b, T] of the logits, with all columns: [b], 0 without a pair."""
  weights = pairs / jnp.maximum(pairs.sum(axis=1, keepdims=True), 1)
  return -jnp.sum(weights * jax.nn.log_softmax(logits, axis=1), axis=1)


def siglip_loss(logits: Array, pairs: Array | None = None) -> Array:
  """Logistic loss of every image with every text, summed over texts (Zhai et al. 2023, equation 1).

  Arguments and errors are those of `clip_loss`, with SigLIP's bias in the logits.

  Returns:
    float32 [], the mean over images.
  """
  return sigmoid_losses(*_checked(logits, pairs)).mean()


def sigmoid_losses(logits: Array, pairs: Array) -> Array:
  """`siglip_loss` of each image, for some rows [b, T] of the logits: [b]."""
  return -jax.nn.log_sigmoid(jnp.where(pairs, logits, -logits)).sum(axis=1)


def _checked(logits, pairs):
  if logits.ndim != 2 or (pairs is None and logits.shape[0] != logits.shape[1]):
    raise ValueError(f"expected logits [B, T], square if pairs are not given, got {logits.shape}; correct their shape.")
  pairs = jnp.eye(logits.shape[0], dtype=bool) if pairs is None else jnp.asarray(pairs)
  if pairs.shape != logits.shape or pairs.dtype != bool:
    raise ValueError(
      f"expected pairs bool {logits.shape} for logits {logits.shape}, got {pairs.dtype} {pairs.shape}; convert them."
    )
  return logits.astype(jnp.float32), pairs
