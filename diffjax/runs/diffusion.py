"""A trained diffusion model: its folder's config and parameters, and the pipeline that they give."""

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np

from diffjax import data, from_config
from diffjax.pipelines import Pipeline
from diffjax.runs.folder import load_data, read_config, restore
from diffjax.typing import PyTree


@dataclasses.dataclass
class Run:
  """A trained model: its config and the averaged parameters it draws with.

  Attributes:
    config: the run's ConfigDict.
    params: parameters of the network, on the host, or with config.parallel == "fsdp" as training shards them.
    step: how many training steps they have seen.
    calls: int [num], network calls for each picture drawn last, of a sampler that counts them; else None.
  """

  config: object
  params: PyTree
  step: int
  calls: np.ndarray | None = None

  @functools.cached_property
  def pipeline(self) -> Pipeline:
    """The model with all that is needed to draw with it."""
    return from_config.pipeline(self.config, self.params)

  @property
  def num_classes(self) -> int:
    """How many labels the model knows; 0 for one without labels."""
    return from_config.num_classes(self.config)

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C) of the pictures the model draws."""
    return from_config.image_shape(self.config)

  def data(self, split: str) -> dict[str, np.ndarray]:
    """{"image": uint8 [N, H, W, C], "label": int32 [N] if any} of "train" or "test", as the model is trained on it."""
    return data.in_memory(load_data(self.config, split))

  def draw(self, num: int, **options: Any) -> Any:
    """The images of `pipelines.Pipeline.draw` with its options; with `trajectory` (images, path).

    `pipeline.draw` itself also returns the noise that pictures drawn as floats started from.
    """
    drawn = self.pipeline.draw(num, **options)
    self.calls = drawn.calls
    return drawn.images if drawn.path is None else (drawn.images, drawn.path)


def load_run(workdir: str | pathlib.Path, *, best: bool = False) -> Run:
  """The diffusion model of a run's folder, at its newest whole checkpoint, or at the one with the least held-out loss.

  Raises:
    FileNotFoundError: if the folder holds no run, or no checkpoint yet.
    ValueError: if its config or all of its checkpoints are damaged, or if it is a CLIP's run.
  """
  config = read_config(workdir)
  if from_config.kind_of(config) != "diffusion":
    raise ValueError(f"{workdir} is the run of a CLIP, which draws nothing; give a diffusion model's as --workdir.")
  state = restore(workdir, config, best=best)
  return Run(config, state.averaged, int(state.step))
