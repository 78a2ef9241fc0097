"""Runs that were not trained, for tests of what is drawn from them."""

import jax
import numpy as np

from diffjax import from_config, runs
from diffjax.runs.checkpoints import Checkpoints


def a_run(config, seed=0):
  """A network with random weights in all its layers, so that labels and noise show."""
  params = from_config.initial_state(config).params
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  moved = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys)]
  return runs.Run(config, jax.tree.map(np.asarray, jax.tree.unflatten(tree, moved)), 0)


def assert_close(a, b):
  """Equal up to rounding at the border of two grey levels."""
  assert np.abs(a.astype(int) - b).max() <= 1


def saved(workdir, config, step=4):
  """A run's folder as training leaves it."""
  runs.claim(workdir, config)
  state = jax.tree.map(np.asarray, from_config.initial_state(config))
  checkpoints = Checkpoints(workdir / runs.CHECKPOINTS)
  checkpoints.save(step, state.replace(step=np.int32(step)), config.to_dict(), {}, 0.5)
  checkpoints.close()
  return state
