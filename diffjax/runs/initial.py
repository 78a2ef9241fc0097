"""The state that a new run starts from: random, or another model's parameters."""

import dataclasses

import jax
import jax.numpy as jnp

from diffjax import from_config
from diffjax.cluster import devices
from diffjax.denoisers import BoundNetwork, NetworkDenoiser
from diffjax.runs.diffusion import open_pipeline
from diffjax.system.files import shown
from diffjax.training.step import TrainState


def start_from(config, state: TrainState) -> TrainState:
  """The initial state of a run, with the parameters of the model in `config.init_from`, if that is set.

  Raises:
    ValueError: that model has another architecture or prediction.
    FileNotFoundError: the folder holds none.
  """
  folder = config.get("init_from", "")
  if not folder:
    return state
  denoiser = open_pipeline(folder, dtype=jnp.float32)[0].denoiser  # training keeps full precision
  assert isinstance(denoiser, NetworkDenoiser) and isinstance(denoiser.network, BoundNetwork)
  own = from_config.prediction(config)
  if type(denoiser.prediction) is not type(own):
    names = [type(prediction).__name__.lower() for prediction in (denoiser.prediction, own)]
    raise ValueError(f"{folder} predicts {names[0]}, but prediction.name is {names[1]!r}; set it to {names[0]!r}.")
  params = devices.whole(denoiser.network.params)
  there, here = _shapes(params), _shapes(state.params)
  for name in sorted(there.keys() | here.keys()):
    if there.get(name) != here.get(name):
      raise ValueError(
        f"the network in {folder} has {there.get(name, 'nothing')} at {shown(name)}, where the config's has"
        f" {here.get(name, 'nothing')}; set the keys of `model` to its architecture."
      )
  params = jax.tree.map(lambda a, like: a.astype(like.dtype), params, state.params)
  return dataclasses.replace(state, params=params, ema=tuple(params for _ in state.ema))


def _shapes(params):
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): a.shape for path, a in jax.tree.leaves_with_path(params)
  }
