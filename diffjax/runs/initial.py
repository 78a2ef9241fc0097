"""The state that a new run starts from: random, or another model's parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import from_config
from diffjax.cluster import devices
from diffjax.denoisers import BoundNetwork, NetworkDenoiser
from diffjax.runs.autoencoder import read_autoencoder
from diffjax.runs.diffusion import open_pipeline
from diffjax.system.files import shown
from diffjax.training.objectives.denoising import TEXT
from diffjax.training.step import TrainState
from diffjax.typing import PyTree


def load_start(config, target: TrainState, frozen: PyTree = None) -> PyTree:
  """The parameters that a new run starts from: those of the model in `config.init_from`, if that is set.

  A text encoder that is trained along starts from that in `frozen`.

  Args:
    config: a run's ConfigDict.
    target: its state, or the shapes of that.
    frozen: what it stands on, as `load_frozen` returns it.

  Returns:
    A part of the state's parameters, on the host.

  Raises:
    ValueError: that model has another architecture or prediction.
    FileNotFoundError: the folder holds none.
  """
  start = {}
  if TEXT in target.params:
    (tower,) = frozen.conditioner.towers
    start = {TEXT: tower.params}
  folder = config.get("init_from", "")
  if not folder:
    return start
  autoencoder = from_config.kind_of(config) == "autoencoder"
  params = read_autoencoder(folder)[0].params if autoencoder else _network(config, folder)
  there, here = _shapes(params), _shapes({name: target.params[name] for name in params})
  for name in sorted(there.keys() | here.keys()):
    if there.get(name) != here.get(name):
      raise ValueError(
        f"the network in {folder} has {there.get(name, 'nothing')} at {shown(name)}, where the config's has"
        f" {here.get(name, 'nothing')}; set the keys of `model` to its architecture."
      )
  return start | params


def start_from(state: TrainState, start: PyTree) -> TrainState:
  """An initial state with the parameters of `load_start` in place of some of its own and of their averages."""
  put = lambda own: own | jax.tree.map(lambda a, like: np.asarray(a, like.dtype), start, {n: own[n] for n in start})
  return dataclasses.replace(state, params=put(state.params), ema=tuple(map(put, state.ema))) if start else state


def _network(config, folder):
  """The parameters of the network in a folder, in full precision, if it predicts what the config says."""
  denoiser = open_pipeline(folder, dtype=jnp.float32)[0].denoiser
  assert isinstance(denoiser, NetworkDenoiser) and isinstance(denoiser.network, BoundNetwork)
  own = from_config.prediction(config)
  if type(denoiser.prediction) is not type(own):
    names = [type(prediction).__name__.lower() for prediction in (denoiser.prediction, own)]
    raise ValueError(f"{folder} predicts {names[0]}, but prediction.name is {names[1]!r}; set it to {names[0]!r}.")
  return devices.whole(denoiser.network.params)


def _shapes(params):
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): a.shape for path, a in jax.tree.leaves_with_path(params)
  }
