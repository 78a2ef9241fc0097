"""Images for watching the progress of training."""

import functools
import pathlib

from diffjax.from_config.kinds import kind
from diffjax.runs.folder import load_data
from diffjax.typing import PyTree


def preview(config, params: PyTree, frozen: PyTree, path: pathlib.Path) -> None:
  """Writes an image of what a model can do: a grid of its samples, or the similarity matrix of a CLIP.

  All processes take part, and process 0 writes. `params` come from a layout's snapshot.
  """
  kind(config).preview(config, params, frozen, functools.partial(load_data, config, "test"), path)
