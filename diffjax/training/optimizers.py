"""Optax optimisers, adapted to the kinds of our parameters."""

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from diffjax.typing import PyTree

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton-Schulz iteration, tuned to need few steps (Jordan et al. 2024)."""


def adam(learning_rate: optax.Schedule, b1: float, b2: float, weight_decay: float) -> optax.GradientTransformation:
  """Adam with decoupled weight decay of the kernels (Loshchilov & Hutter 2019, algorithm 2)."""
  # decay would shrink norms and biases to no benefit, and change frozen frequencies
  kernels = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
  return optax.adamw(learning_rate, b1=b1, b2=b2, weight_decay=weight_decay, mask=kernels)


def muon(learning_rate: optax.Schedule, b1: float, b2: float, weight_decay: float) -> optax.GradientTransformation:
  """Muon with decoupled weight decay for the hidden kernels, Adam with b1 and b2 for the rest (Jordan et al. 2024).

  Updates have the size of Adam's, so that one learning rate serves both (Liu et al. 2025, Muon is scalable for LLM
  training, eq. 4).
  """
  return optax.contrib.muon(
    learning_rate,
    weight_decay=weight_decay,
    adam_b1=b1,
    adam_b2=b2,
    muon_weight_dimension_numbers=hidden_matrices,
    consistent_rms=0.2,
    ns_coeffs=(QUINTIC,) * 5,  # passed per iteration they are scanned over; otherwise unrolled into a longer program
  )


def hidden_matrices(params: PyTree) -> PyTree:
  """How each kernel between the first and last layers is viewed as a matrix, [..., O] as [-1, O]; None for others."""

  def matrix(path, p):
    layer, name = (entry.key for entry in path[-2:])
    if name != "kernel" or layer in ("conv_in", "conv_out"):
      return None
    return MuonDimensionNumbers(tuple(range(p.ndim - 1)), (p.ndim - 1,))

  return jax.tree_util.tree_map_with_path(matrix, params)


def at_most(name: str, bound: float) -> optax.GradientTransformation:
  """Limits updates so that no parameter of this name exceeds `bound`; stateless, to be last in a chain."""

  def cut(path, update, param):
    return jnp.minimum(update, bound - param) if path[-1].key == name else update

  def update(updates, state, params=None):
    return jax.tree_util.tree_map_with_path(cut, updates, params), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
