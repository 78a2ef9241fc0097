"""Muon moves matrices by their orthogonal part and leaves the other parameters to Adam."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax import from_config
from diffjax.training.optimizers import adam, muon

RATE, DECAY = 0.01, 0.1
SHAPES = {
  "conv_in": {"kernel": (3, 3, 1, 8), "bias": (8,)},
  "block": {"conv_0": {"kernel": (3, 3, 8, 16), "bias": (16,)}, "emb": {"kernel": (32, 24)}, "norm_0": {"scale": (8,)}},
  "conv_out": {"kernel": (3, 3, 8, 1)},
  "embed_label": (11, 32),
}


def random_params(seed):
  leaves, structure = jax.tree.flatten(SHAPES, is_leaf=lambda leaf: isinstance(leaf, tuple))
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  return structure.unflatten([jax.random.normal(k, s) for k, s in zip(keys, leaves)])


def first_update(optimizer, params, grads):
  return optimizer.update(grads, optimizer.init({"params": params}), {"params": params})[0]["params"]


@pytest.fixture
def moved():
  params, grads = random_params(0), random_params(1)
  return params, grads, first_update(muon(optax.constant_schedule(RATE), 0.9, 0.99, 0.0), params, {"params": grads})


@pytest.mark.slow
@pytest.mark.parametrize("path", [("block", "conv_0"), ("block", "emb")])
def test_a_hidden_kernel_moves_by_the_orthogonal_factor_of_its_gradient(moved, path):
  update, grad = (np.asarray(tree[path[0]][path[1]]["kernel"]) for tree in (moved[2], moved[1]))
  update, grad = (a.reshape(-1, a.shape[-1]) for a in (update, grad))
  u, _, vt = np.linalg.svd(grad, full_matrices=False)
  # in the basis of the gradient's singular vectors the update is diagonal, and every entry is nearly the same
  core = u.T @ update @ vt.T / (-RATE * 0.2 * np.sqrt(max(grad.shape)))
  np.testing.assert_allclose(core, np.diag(np.diag(core)), atol=2e-3)
  assert 0.65 < np.diag(core).min() and np.diag(core).max() < 1.25  # the published coefficients reach 0.68 to 1.13


def test_every_other_parameter_moves_as_by_adam(moved):
  params, grads, update = moved
  plain = first_update(optax.nadamw(RATE, b2=0.99, weight_decay=0.0), params, {"params": grads})
  for get in (
    lambda p: p["conv_in"]["kernel"],
    lambda p: p["conv_out"]["kernel"],
    lambda p: p["block"]["conv_0"]["bias"],
    lambda p: p["block"]["norm_0"]["scale"],
    lambda p: p["embed_label"],
  ):
    np.testing.assert_allclose(get(update), get(plain), rtol=1e-5)


@pytest.mark.parametrize("make, decayed", [(adam, ("conv_in", "block", "conv_out")), (muon, ("block",))])
def test_decay_shrinks_kernels_only(make, decayed):
  params = random_params(0)
  still = jax.tree.map(jnp.zeros_like, params)
  update = first_update(make(optax.constant_schedule(RATE), 0.9, 0.99, DECAY), params, {"params": still})
  for layer in ("conv_in", "conv_out"):
    expected = -RATE * DECAY * params[layer]["kernel"] if layer in decayed else still[layer]["kernel"]
    np.testing.assert_allclose(update[layer]["kernel"], expected, rtol=1e-5)
  np.testing.assert_allclose(
    update["block"]["emb"]["kernel"], -RATE * DECAY * params["block"]["emb"]["kernel"], rtol=1e-5
  )
  assert not np.any(update["block"]["conv_0"]["bias"]) and not np.any(update["block"]["norm_0"]["scale"])


def test_a_config_names_its_optimizer(tiny):
  config = tiny(optimizer="muon")
  state = jax.eval_shape(lambda: from_config.initial_state(config))
  assert "muon" in str(jax.tree.structure(state.opt_state))
  config.train.optimizer = "moun"
  with pytest.raises(ValueError, match=r"no optimizer 'moun' \(did you mean 'muon'"):
    from_config.optimizer(config)
