"""The kinds of model that train.py trains: one module each, with the same functions."""

import pathlib
from collections.abc import Callable
from typing import Any, Protocol

from diffjax.data import Source
from diffjax.from_config import autoencoder, clip, diffusion, latent
from diffjax.typing import Array, PyTree


class Kind(Protocol):
  """What the module of a kind of model provides.

  Attributes:
    NETWORKS: the names in `model.name` that belong to this kind.
    NOUN: what an error calls such a model, with its article.
    NEW_KEYS: keys missing from configs of older runs; their defaults reproduce the behaviour of those runs.
  """

  NETWORKS: dict[str, Callable[..., Any]]
  NOUN: str
  NEW_KEYS: tuple[str, ...]

  def default_config(self) -> Any:
    """The ConfigDict with every key."""
    ...

  def check(self, config) -> None:
    """Raises ValueError for the first mistake in a config."""
    ...

  def num_classes(self, config) -> int:
    """Number of labels that the data must have; 0 for a model that uses none."""
    ...

  def objective(self, config) -> Any:
    """The training objective, a struct with a field `train`."""
    ...

  def initial_params(self, config, key: Array, frozen: PyTree = None) -> PyTree:
    """Initial parameters; only the shapes of what is frozen may matter."""
    ...

  def initial_frozen(self, config) -> PyTree:
    """What training reads but does not change, as in `from_config.initial_frozen`; None: nothing from the config."""
    ...

  def bounds(self, config) -> tuple:
    """Constraints applied to the parameters after each update."""
    ...

  def memory_settings(self, config) -> dict[str, Any]:
    """Settings, besides the batch size, that affect the memory of a training step."""
    ...

  def preview(self, config, params: PyTree, frozen: PyTree, held_out: Callable[[], Source], path: pathlib.Path) -> None:
    """Writes a picture of what the model can do; all processes take part. `held_out` opens the held-out data."""
    ...


KINDS: dict[str, Kind] = {"diffusion": diffusion, "clip": clip, "autoencoder": autoencoder, "latent": latent}


def kind_of(config) -> str:
  """The kind of model that a config, or its tree of dicts, describes; "diffusion" for unknown networks."""
  name = str(config["model"].get("name"))
  return next((kind for kind, module in KINDS.items() if name in module.NETWORKS), "diffusion")


def kind(config) -> Kind:
  """The module for a config's kind of model."""
  return KINDS[kind_of(config)]
