"""A trained diffusion model, and the pictures drawn from it."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import checks, data, editing, from_config, randomness, samplers
from diffjax.cluster import parallel
from diffjax.cluster.layouts import Layout
from diffjax.codecs import to_float, to_uint8
from diffjax.guidance.energy import warn_of_nonfinite
from diffjax.runs.folder import load_data, read_config, restore
from diffjax.runs.prompts import Prompt
from diffjax.samplers.adaptive import Progress
from diffjax.sampling import sample
from diffjax.system import memory
from diffjax.typing import Array, PyTree


@dataclasses.dataclass
class Run:
  """A trained model: its config and the averaged parameters it draws with.

  Attributes:
    config: the run's ConfigDict.
    params: parameters of the network, on the host, or with config.parallel == "fsdp" as training shares them.
    step: how many training steps they have seen.
    calls: int [num], network calls for each picture drawn last, of a sampler that counts them; else None.
  """

  config: object
  params: PyTree
  step: int
  calls: np.ndarray | None = None

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
    prompt: Prompt | None = None,
    cfgpp: bool = False,
    repeats: int = 1,
    init_image: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    strength: float | None = None,
    batch_size: int = 256,
    trajectory: bool = False,
    progress=lambda batches: batches,
    **options: float,
  ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Draws pictures; each depends on the seed and its own number alone.

    Args:
      num: how many.
      steps: noise levels above zero; default: the config's.
      sampler: a name in `from_config.SAMPLERS`; default: the config's.
      grid: a name in `from_config.GRIDS`; default: what the config recommends for this number of steps.
      seed: of all randomness.
      labels: int [num] in 0..num_classes-1 for a conditional model; without them it draws unconditionally.
      guidance_scale: of classifier-free guidance, for pictures with labels; default: the config's.
      prompt: what to draw, by `make_prompt`; its guidance stands on top of that by labels.
      cfgpp: CFG++ in its place, `samplers.MeanGuided`: the noise that stays is the unguided model's; a scale in [0, 1].
      repeats: time travel, `samplers.Recurrent`: how often each step is gone, with so many times the network calls.
      init_image: uint8 [H, W, C], a picture to start from (SDEdit) instead of noise.
      mask: bool [H, W], True where the init image is drawn anew (inpainting); elsewhere it is kept as it is.
      strength: in (0, 1], the share of the steps that are done; default: 1 with a mask, 0.5 without. Below 1 what is
        drawn anew starts from the init image, too.
      batch_size: pictures drawn at a time.
      trajectory: also return the way there.
      progress: wraps the list of batches, `tqdm` for example.
      **options: hyper-parameters of the sampler, such as eta.

    Returns:
      uint8 [num, H, W, C]; with `trajectory` also uint8 [steps + 1, num, H, W, C], scaled to unit variance.

    Raises:
      ValueError: a number out of range, an unknown name, labels for a model that has none, an init image or mask
        that does not fit it, cfgpp without guidance or with a scale beyond [0, 1].
      FloatingPointError: a picture is NaN or infinite.
      MemoryError: a device's memory does not suffice.
    """
    if num < 1:
      raise ValueError(f"num is {num}, but at least one picture must be drawn.")
    if batch_size < 1:
      raise ValueError(f"batch_size is {batch_size}, but at least one picture must be drawn at a time.")
    checks.check_numbers({"seed": seed})
    sigmas = from_config.grid(self.config, steps if steps is not None else self.config.sampler.steps, grid)
    method = restart = from_config.sampler(self.config, sampler, num_steps=len(sigmas) - 1, **options)
    denoiser, labels = self._condition(num, labels, guidance_scale)
    if cfgpp and (prompt or not hasattr(denoiser, "x0_and_shift")):
      raise ValueError(
        "cfgpp acts on guidance by a label alone; ask for one, of a model with a null label and without a prompt, or"
        " leave it out."
      )
    scale = self.config.sampler.guidance_scale if guidance_scale is None else guidance_scale
    if cfgpp and not 0 <= scale <= 1:
      raise ValueError(f"cfgpp takes a guidance_scale in [0, 1], and it is {scale}; give 0.6, for example.")
    method = samplers.MeanGuided(method) if cfgpp else method
    layout = from_config.LAYOUTS[self.config.parallel]

    def assemble(report=None):
      guided, guided_method = prompt.guide(denoiser, method, report) if prompt else (denoiser, method)
      recurrent = samplers.Recurrent(guided_method, repeats) if repeats != 1 else guided_method
      edited, levels, start = self._edit(guided, sigmas, init_image, mask, strength)
      if isinstance(restart, samplers.Restart):
        restart.check_grid(levels)
      return layout.spread((edited, recurrent, levels, jax.random.key(seed), start))

    count = parallel.device_count()
    batch_size = -(-min(batch_size, num) // count) * count
    settings = {"batch_size": batch_size} | ({"parallel": self.config.parallel} if count > 1 else {})
    pictures, finite, paths, calls = [], [], [], []
    with memory.explaining(_draw(layout, self.image_shape, trajectory), settings) as draw_batch:
      fixed = assemble()
      for first in progress(range(0, num, batch_size)):
        numbers = np.arange(first, first + batch_size)[parallel.own_part(batch_size)]
        cond = None if labels is None else {"label": labels[np.minimum(numbers, num - 1)]}
        drawn, is_finite, path, counts = draw_batch(*fixed, *layout.split((numbers, cond)))
        if prompt and not layout.join(is_finite).all():
          # Again, by a program that takes gradients that are not finite for zero and tells; no disk could keep it
          drawn, is_finite, path, counts = draw_batch(*assemble(warn_of_nonfinite), *layout.split((numbers, cond)))
        pictures.append(layout.join(drawn))
        finite.append(layout.join(is_finite))
        calls += [layout.join(count) for count in counts]
        paths.append(layout.join(path, axis=1) if trajectory else None)
    failed = num - np.concatenate(finite)[:num].sum()
    if failed:
      raise FloatingPointError(
        f"{failed} of {num} pictures are not finite numbers; take a smaller guidance scale, another sampler or grid, or"
        " an earlier checkpoint."
      )
    images = np.concatenate(pictures)[:num]
    self.calls = np.concatenate(calls)[:num] if calls else None
    return (images, np.concatenate(paths, axis=1)[:, :num]) if trajectory else images

  def _edit(self, denoiser, sigmas, init_image, mask, strength):
    """(denoiser, sigmas, start) of pictures that start at start + sigmas[0] * noise."""
    shape = self.image_shape
    if init_image is None:
      if mask is not None or strength is not None:
        given = "a mask marks" if mask is not None else "strength says"
        raise ValueError(f"{given} what to draw anew of an init image, and there is none; give one, or leave it out.")
      return denoiser, sigmas, np.zeros((1, *shape), np.float32)
    if init_image.shape != shape or init_image.dtype != np.uint8:
      raise ValueError(f"init_image is {init_image.dtype} {init_image.shape}, but this model draws uint8 {shape}.")
    known = np.asarray(to_float(init_image))[None]
    if mask is None:
      return denoiser, editing.shorten(sigmas, 0.5 if strength is None else strength), known
    if mask.shape != shape[:2] or mask.dtype != bool:
      raise ValueError(f"mask is {mask.dtype} {mask.shape}, but must be bool {shape[:2]}, as the init image.")
    mask = mask[None, :, :, None].astype(np.float32)
    sigmas = editing.shorten(sigmas, 1.0 if strength is None else strength)
    start = known if strength is not None and strength < 1 else editing.hole(known, mask)
    return editing.Inpaint(denoiser, known, mask), sigmas, start

  def _condition(self, num, labels, guidance_scale):
    denoiser = from_config.denoiser(self.config, self.params)
    if labels is None:
      if guidance_scale is not None:
        raise ValueError("guidance_scale acts on a label, and none was asked for; pass one, or leave the scale out.")
      return from_config.guided(self.config, denoiser), None
    labels = np.asarray(labels)
    network = from_config.module(self.config)
    if not self.num_classes:
      raise ValueError("this model was trained without labels; leave the label out, or train a conditional config.")
    if labels.shape != (num,):
      raise ValueError(f"labels have shape {labels.shape}, but there must be one for each of the {num} pictures.")
    if labels.min() < 0 or labels.max() >= self.num_classes:
      raise ValueError(f"labels {labels.min()}..{labels.max()} do not fit; each must lie in 0..{self.num_classes - 1}.")
    labels = labels.astype(np.int32)
    if not network.null_label:
      if guidance_scale is not None:
        raise ValueError("this network has no null label to guide away from; leave guidance_scale out.")
      return from_config.guided(self.config, denoiser), labels
    scale = self.config.sampler.guidance_scale if guidance_scale is None else guidance_scale
    return from_config.guided(self.config, denoiser, scale), labels


@functools.cache
def _draw(layout: type[Layout], shape: tuple[int, ...], trajectory: bool):
  """The whole trajectory of a batch as one compiled program, over all devices."""

  def draw(denoiser, sampler, sigmas, key: Array, start: Array, numbers: Array, cond):
    key_start, key_path = randomness.split(randomness.fold_in_each(key, numbers))
    x = start + sigmas[0] * randomness.normal(key_start, (numbers.shape[0], *shape))
    x0, *path, carry = sample(denoiser, sampler, x, sigmas, key=key_path, cond=cond, trajectory=trajectory, carry=True)
    # of time travel each turn starts from the same count
    calls = (carry.calls + 1,) if isinstance(carry, Progress) and not isinstance(sampler, samplers.Recurrent) else ()
    if not trajectory:
      return to_uint8(x0), is_finite(x0), (), calls
    path = path[0]
    scale = jax.lax.rsqrt(1 + sigmas**2).reshape(-1, *([1] * (path.ndim - 1)))
    return to_uint8(x0), is_finite(x0), to_uint8(path * scale), calls

  def is_finite(x0):
    return jnp.isfinite(x0).all((1, 2, 3))

  return layout.map(draw)


def load_run(workdir: str | pathlib.Path, *, best: bool = False) -> Run:
  """The diffusion model of a run's folder, at its newest whole checkpoint, or at the one with the least held-out loss.

  Raises:
    FileNotFoundError: if the folder holds no run, or no checkpoint yet.
    ValueError: if its config or all of its checkpoints are damaged, or if it is a CLIP's run.
  """
  config = read_config(workdir)
  if from_config.clip.is_clip(config):
    raise ValueError(f"{workdir} is the run of a CLIP, which draws nothing; give a diffusion model's as --workdir.")
  state = restore(workdir, config, best=best)
  return Run(config, state.averaged, int(state.step))
