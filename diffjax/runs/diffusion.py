"""A trained diffusion model: the config and parameters in its folder, and the pipeline they define."""

import contextlib
import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np

from diffjax import data, from_config, pretrained
from diffjax.pipelines import Pipeline
from diffjax.runs.folder import check_kind, explaining, load_data, read_config, restore_averaged
from diffjax.runs.frozen import load_frozen
from diffjax.system import paths
from diffjax.typing import PyTree


@dataclasses.dataclass
class Run:
  """A trained model: its config and the averaged parameters it samples with.

  Attributes:
    config: the run's ConfigDict.
    params: parameters of the network, on the host, or with config.parallel == "fsdp" sharded as in training.
    step: number of training steps done.
    frozen: what the model stands on, as `runs.load_frozen` returns it.
    calls: int [num], network calls for each image of the last `draw`, if the sampler counts them; else None.
  """

  config: object
  params: PyTree
  step: int
  frozen: PyTree = None
  calls: np.ndarray | None = None

  @functools.cached_property
  def pipeline(self) -> Pipeline:
    """The model with everything needed for sampling."""
    return from_config.pipeline(self.config, self.params, self.frozen)

  @property
  def num_classes(self) -> int:
    """Number of class labels; 0 for an unconditional model."""
    return from_config.num_classes(self.config)

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C) of the model's images."""
    return from_config.image_shape(self.config)

  def data(self, split: str) -> dict[str, np.ndarray]:
    """{"image": uint8 [N, H, W, C], "label": int32 [N] if any} of "train" or "test", preprocessed as in training."""
    return data.in_memory(load_data(self.config, split, buckets=False))

  def draw(self, num: int, **options: Any) -> Any:
    """Images from `pipelines.Pipeline.draw`, with its options; with `trajectory`, (images, path).

    `pipeline.draw` itself also returns the initial noise of images drawn as floats.
    """
    drawn = self.pipeline.draw(num, **options)
    self.calls = drawn.calls
    return drawn.images if drawn.path is None else (drawn.images, drawn.path)


def open_pipeline(
  workdir: str | pathlib.Path,
  *,
  best: bool = False,
  tokenizer: str | None = None,
  prediction: str | None = None,
  dtype: Any = None,
  read: bool = True,
) -> tuple[Pipeline, str]:
  """The pipeline of a run, or of published weights, and its source, such as "step 2500".

  Args:
    workdir: the folder of a run, a folder of published weights, a single file of them, or `pretrained.hub`'s name of a
      published model, such as "hub:owner/name".
    best: as `load_run`.
    tokenizer, prediction: as `pretrained.load_single_file`.
    dtype: of published weights, as `pretrained.load_pipeline`.
    read: False: published weights are only checked, and the pipeline has their shapes (`pretrained.unread`).

  Raises:
    ValueError: as there, or an option that does not apply to what `workdir` is.
    FileNotFoundError: as there.
  """
  if str(workdir).startswith(pretrained.hub.PREFIX):
    workdir = pretrained.hub.fetch(str(workdir))
  path = paths.as_path(workdir)
  single, folder = path.suffix == ".safetensors", (path / pretrained.MODEL_INDEX).is_file()
  if best and (single or folder):
    raise ValueError(f"{workdir} holds published weights, which have no best checkpoint; omit --best.")
  if not single and (tokenizer or prediction):
    name = "tokenizer" if tokenizer else "prediction"
    raise ValueError(f"{workdir} is a folder, which has its own {name}; omit --{name}.")
  with contextlib.nullcontext() if read else pretrained.unread():
    if single:
      if tokenizer is None:
        raise ValueError(f"{workdir} holds no tokenizer; give a folder with CLIP's as --tokenizer.")
      single_file = pretrained.load_single_file(path, tokenizer=tokenizer, prediction=prediction, dtype=dtype)
      return single_file, "published weights"
    if folder:
      return pretrained.load_pipeline(path, dtype=dtype), "published weights"
  run = load_run(workdir, best=best)
  return run.pipeline, f"step {run.step}"


def load_run(workdir: str | pathlib.Path, *, best: bool = False) -> Run:
  """Loads a run's diffusion model, at its newest intact checkpoint or that with the lowest held-out loss.

  Raises:
    FileNotFoundError: if the folder holds no run, or no checkpoint yet.
    ValueError: if its config or all of its checkpoints are damaged, or if it is the run of another kind of model.
  """
  config = read_config(workdir)
  check_kind(workdir, config, ("diffusion", "latent"), ", which cannot sample; give a diffusion model's as --workdir.")
  with explaining(workdir):
    from_config.check(config)
  frozen = load_frozen(config, workdir)
  return Run(config, *restore_averaged(workdir, config, best=best, frozen=frozen), frozen)
