"""A run's folder: the config, the checkpoints, and the pictures drawn from them."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np

from diffjax import batching, build, data, parallel, plots
from diffjax.guidance import ClassifierFree
from diffjax.sampling import sample
from diffjax.training.checkpoints import Checkpoints
from diffjax.training.objective import to_uint8
from diffjax.typing import Array, PyTree

CONFIG, CHECKPOINTS, BEST = "config.json", "checkpoints", "best"


@dataclasses.dataclass
class Run:
  """A trained model: its config and the averaged parameters it draws with.

  Attributes:
    config: the run's ConfigDict.
    params: parameters of the network, on the host.
    step: how many training steps they have seen.
  """

  config: object
  params: PyTree
  step: int

  @property
  def num_classes(self) -> int:
    """How many labels the model knows; 0 for one without labels."""
    return build.num_classes(self.config)

  def data(self, split: str) -> dict[str, np.ndarray]:
    """{"image": uint8 [N, H, W, C], "label": int32 [N] if any} of "train" or "test", as the model is trained on it."""
    return data.in_memory(load_data(self.config, split))

  def draw(
    self,
    num: int,
    *,
    steps: int | None = None,
    sampler: str | None = None,
    grid: str | None = None,
    seed: int = 0,
    labels: np.ndarray | None = None,
    guidance_scale: float | None = None,
    batch_size: int = 256,
    trajectory: bool = False,
    progress=lambda batches: batches,
    **options: float,
  ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Draws pictures; each depends on the seed and its own number alone.

    Args:
      num: how many.
      steps: noise levels above zero; default: the config's.
      sampler: a name in `build.SAMPLERS`; default: the config's.
      grid: a name in `build.GRIDS`; default: what the config recommends for this number of steps.
      seed: of all randomness.
      labels: int [num] in 0..num_classes-1 for a conditional model; without them it draws unconditionally.
      guidance_scale: of classifier-free guidance, for pictures with labels; default: the config's.
      batch_size: pictures drawn at a time.
      trajectory: also return the way there.
      progress: wraps the list of batches, `tqdm` for example.
      **options: hyper-parameters of the sampler, such as eta.

    Returns:
      uint8 [num, H, W, C]; with `trajectory` also uint8 [steps + 1, num, H, W, C], scaled to unit variance.

    Raises:
      ValueError: a number out of range, an unknown name, labels for a model that has none.
    """
    if num < 1:
      raise ValueError(f"num is {num}, but at least one picture must be drawn.")
    if batch_size < 1:
      raise ValueError(f"batch_size is {batch_size}, but at least one picture must be drawn at a time.")
    sigmas = build.grid(self.config, steps if steps is not None else self.config.sampler.steps, grid)
    options = self._churn(options, sigmas)
    method = build.sampler(self.config, sampler, **options)
    denoiser, labels = self._condition(num, labels, guidance_scale)
    count = parallel.local_device_count()
    batch_size = -(-min(batch_size, num) // count) * count
    fixed = parallel.replicate((denoiser, method, sigmas, jax.random.key(seed)))
    draw_batch = _draw(build.image_shape(self.config), trajectory)
    pictures, paths = [], []
    for first in progress(range(0, num, batch_size)):
      numbers = np.arange(first, first + batch_size)
      cond = None if labels is None else {"label": labels[np.minimum(numbers, num - 1)]}
      drawn, path = draw_batch(*fixed, *parallel.shard((numbers, cond)))
      pictures.append(parallel.unshard(drawn))
      paths.append(parallel.unshard(path, axis=1) if trajectory else None)
    images = np.concatenate(pictures)[:num]
    return (images, np.concatenate(paths, axis=1)[:, :num]) if trajectory else images

  def _churn(self, options, sigmas):
    return options | {"num_steps": len(sigmas) - 1} if options.get("s_churn") is not None else options

  def _condition(self, num, labels, guidance_scale):
    denoiser = build.denoiser(self.config, self.params)
    if labels is None:
      if guidance_scale is not None:
        raise ValueError("guidance_scale acts on a label, and none was asked for; pass one, or leave the scale out.")
      return denoiser, None
    labels = np.asarray(labels, np.int32)
    network = build.module(self.config)
    if not self.num_classes:
      raise ValueError("this model was trained without labels; leave the label out, or train a conditional config.")
    if labels.shape != (num,):
      raise ValueError(f"labels have shape {labels.shape}, but there must be one for each of the {num} pictures.")
    if labels.min() < 0 or labels.max() >= self.num_classes:
      raise ValueError(f"labels {labels.min()}..{labels.max()} do not fit; each must lie in 0..{self.num_classes - 1}.")
    if not network.null_label:
      if guidance_scale is not None:
        raise ValueError("this network has no null label to guide away from; leave guidance_scale out.")
      return denoiser, labels
    scale = self.config.sampler.guidance_scale if guidance_scale is None else guidance_scale
    return ClassifierFree(denoiser, {"label": self.num_classes}, float(scale)), labels


@functools.cache
def _draw(shape: tuple[int, ...], trajectory: bool):
  """The whole trajectory of a batch as one compiled program, over all devices."""

  def draw(denoiser, sampler, sigmas, key: Array, numbers: Array, cond):
    key_start, key_path = batching.split(batching.fold_in_each(key, numbers))
    x = sigmas[0] * batching.normal(key_start, (numbers.shape[0], *shape))
    drawn = sample(denoiser, sampler, x, sigmas, key=key_path, cond=cond, trajectory=trajectory)
    if not trajectory:
      return to_uint8(drawn), ()
    x0, path = drawn
    scale = jax.lax.rsqrt(1 + sigmas**2).reshape(-1, *([1] * (path.ndim - 1)))
    return to_uint8(x0), to_uint8(path * scale)

  return parallel.pmap(draw)


def load_data(config, split: str) -> data.Source:
  """One split of a config's data set.

  Raises:
    ValueError: as `data.load`, or if its pictures or labels do not fit the model.
  """
  spec = config.data
  source = data.load(
    spec.name,
    split,
    folder=spec.folder or None,
    image_size=spec.image_size,
    channels=spec.channels,
    data_dir=spec.data_dir or None,
  )
  classes = build.num_classes(config)
  if classes and source.num_classes != classes:
    raise ValueError(
      f"model.num_classes is {classes}, but {spec.name!r} has {source.num_classes} labels; set it to that."
    )
  return source


def read_config(workdir: pathlib.Path):
  """The config of the run in a folder.

  Raises:
    FileNotFoundError: if the folder holds no run.
    ValueError: if its config cannot be read.
  """
  path = pathlib.Path(workdir) / CONFIG
  if not path.is_file():
    raise FileNotFoundError(f"{workdir} holds no run: there is no {CONFIG} in it; train one there, or check --workdir.")
  try:
    config = build.read_config(path.read_text())
  except ValueError as error:
    raise ValueError(f"{path} is not valid JSON ({error}); restore it, or train in a new workdir.") from error
  lacking = build.lacking(config)
  if lacking:
    raise ValueError(f"{path} lacks {', '.join(lacking)}; restore it, or train in a new workdir.")
  return config


def load_run(workdir: str | pathlib.Path, *, best: bool = False) -> Run:
  """The run in a folder, at its newest whole checkpoint, or at the one with the least held-out loss.

  Raises:
    FileNotFoundError: if the folder holds no run, or no checkpoint yet.
    ValueError: if its config or all of its checkpoints are damaged.
  """
  workdir = pathlib.Path(workdir)
  config = read_config(workdir)
  target = jax.eval_shape(lambda: build.initial_state(config))
  folder = workdir / (BEST if best else CHECKPOINTS)
  if not folder.is_dir():
    raise FileNotFoundError(f"{workdir} holds no checkpoint yet; train until the first is saved.")
  checkpoints = Checkpoints(folder, read_only=True)
  found = checkpoints.restore_newest(target)
  checkpoints.close()
  if found is None:
    raise FileNotFoundError(f"{workdir} holds no checkpoint yet; train until the first is saved.")
  state, _ = found
  return Run(config, state.averaged, int(state.step))


def claim(workdir: pathlib.Path, config) -> None:
  """Makes the folder of a run and writes its config, or checks that the run which is there has the same.

  Raises:
    ValueError: if the run in the folder has another config; names the keys that differ.
  """
  path = workdir / CONFIG
  if path.exists():
    differing = build.differences(read_config(workdir), config)
    if differing:
      raise ValueError(
        f"{workdir} holds a run with another config; (key: there, here) {'; '.join(differing)}. "
        "Take the same config to go on with that run, or another --workdir to start a new one."
      )
    return
  workdir.mkdir(parents=True, exist_ok=True)
  with plots.replacing(path) as part:
    part.write_text(config.to_json(indent=2) + "\n")
