"""A model with all that is needed to draw with it, wherever it comes from."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import einops
import jax
import jax.numpy as jnp
import numpy as np

from diffjax import samplers
from diffjax.checks import check_numbers
from diffjax.cluster import processes
from diffjax.cluster.layouts import Layout, Replicated
from diffjax.codecs import Pixels, to_float
from diffjax.conditioning import Unconditional
from diffjax.grids import check_grid
from diffjax.pipelines.drawing import Drawn, compiled_draw, draw_batches, edit, put
from diffjax.typing import Array, Codec, Conditioner, Denoiser, Sampler

ATTEMPTS = 5
"""How often a picture is drawn at most, where the prompt does not accept it."""
APART = 2**28
"""Between the numbers of a picture's attempts; no more pictures than these are drawn at once."""


class Defaults(Protocol):
  """What to draw with where a caller does not say: a run's config, or a folder of published weights, has them."""

  @property
  def steps(self) -> int:
    """The sampler's steps."""
    ...

  @property
  def guidance_scale(self) -> float:
    """The scale of classifier-free guidance."""
    ...

  def grid(self, num_steps: int, name: str | None = None) -> Array:
    """The noise levels [num_steps + 1] of a number of steps, or of the grid of that name."""
    ...

  def sampler(self, name: str | None, steps: int, /, **options: Any) -> Sampler:
    """The sampler, or that of a name, for so many steps, with those of its options that are not None."""
    ...

  def guided(self, denoiser: Denoiser, scale: float | None = None) -> Denoiser:
    """The denoiser with classifier-free guidance, where there is a scale, and what else always belongs to it."""
    ...


class Guide(Protocol):
  """What a prompt that is no cond does: it guides denoiser and sampler, as `runs.Prompt` does."""

  @property
  def sampler(self) -> str | None:
    """The name of the sampler that guidance wants where a caller does not say; None: the model's own."""
    ...

  def at(self, num_steps: int, repeats: int | None = None) -> "Guide":
    """The same for a number of steps, each of them taken `repeats` times, or as often as the guidance says."""
    ...

  def guide(
    self, denoiser: Denoiser, sampler: Sampler, report: Callable[[int, float], None] | None = None
  ) -> tuple[Denoiser, Sampler]:
    """Both, guided; `report` as in `guidance.EnergyGuidance`."""
    ...

  def accepts(self, images: np.ndarray) -> np.ndarray:
    """Whether each of the pictures, uint8 or in -1..1 [N, H, W, C], shows what was asked for, bool [N]."""
    ...


@dataclasses.dataclass(frozen=True)
class Pipeline:
  """A denoiser with its parameters, from what is asked for to pictures.

  Attributes:
    denoiser: the model, unguided.
    image_shape: (H, W, C) of the pictures it draws.
    defaults: what to draw with where `draw` is not told.
    codec: between pictures and the model's x0.
    conditioner: from what is asked for to the model's cond.
    layout: how the model lies on the devices.
  """

  denoiser: Denoiser
  image_shape: tuple[int, int, int]
  defaults: Defaults
  codec: Codec = dataclasses.field(default_factory=Pixels)
  conditioner: Conditioner = dataclasses.field(default_factory=Unconditional)
  layout: type[Layout] = Replicated

  def draw(
    self,
    num: int,
    *,
    steps: int | None = None,
    sampler: str | None = None,
    grid: str | None = None,
    sigmas: Array | None = None,
    seed: int = 0,
    noise: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    guidance_scale: float | None = None,
    prompt: Guide | None = None,
    cfgpp: bool = False,
    repeats: int | None = None,
    init_image: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    strength: float | None = None,
    batch_size: int = 256,
    floats: bool = False,
    trajectory: bool = False,
    progress: Callable[[Sequence[int]], Iterable[int]] = lambda batches: batches,
    **options: float | None,
  ) -> Drawn:
    """Draws pictures; each depends on the seed and its own number alone.

    A picture that the prompt does not accept is drawn again from other noise, `ATTEMPTS` times in all.

    Args:
      num: how many.
      steps: noise levels above zero.
      sampler: its name; default: as the prompt's guidance says, or the model's own.
      grid: its name.
      sigmas: the noise levels themselves, [steps + 1], descending to 0, instead of `steps` and `grid`.
      seed: of all randomness.
      noise: standard normal [num, ...] in x0's shape to start from, instead of the seed's.
      labels: int [num] in 0..num_classes-1 for a conditional model; without them it draws unconditionally.
      guidance_scale: of classifier-free guidance, for pictures with labels.
      prompt: what to draw, by `runs.make_prompt`; its guidance stands on top of that by labels.
      cfgpp: CFG++ in its place, `samplers.MeanGuided`: the noise that stays is the unguided model's; a scale in [0, 1].
      repeats: time travel, `samplers.Recurrent`: how often each step is taken, with so many times the network calls;
        default: as the prompt's guidance says, or once.
      init_image: uint8 [H, W, C], a picture to start from (SDEdit) instead of noise.
      mask: bool [H, W], True where the init image is drawn anew (inpainting); elsewhere it is kept as it is.
      strength: in (0, 1], the share of the steps that are done; default: 1 with a mask, 0.5 without. Below 1 what is
        drawn anew starts from the init image, too.
      batch_size: pictures drawn at a time.
      floats: return pictures as float32, neither rounded nor clipped, and the noise they started from.
      trajectory: also return the way from noise to picture.
      progress: wraps the list of batches, `tqdm` for example.
      **options: hyper-parameters of the sampler, such as eta.

    Raises:
      ValueError: a number out of range, an unknown name, labels for a model that has none, an init image, mask, noise
        or grid that does not fit, cfgpp without guidance or with a scale beyond [0, 1].
      FloatingPointError: a picture is NaN or infinite.
      MemoryError: a device's memory does not suffice.
    """
    if num < 1:
      raise ValueError(f"num is {num}, but at least one picture must be drawn.")
    if batch_size < 1:
      raise ValueError(f"batch_size is {batch_size}, but at least one picture must be drawn at a time.")
    check_numbers({"seed": seed})
    sigmas, shape = self._levels(steps, grid, sigmas), self._x0_shape()
    if noise is not None and np.shape(noise) != (num, *shape):
      raise ValueError(f"noise has shape {np.shape(noise)}, but {num} pictures start from {(num, *shape)}.")
    num_steps = len(sigmas) - 1
    if prompt:
      prompt, repeats = prompt.at(num_steps, repeats), 1
      sampler = sampler or prompt.sampler
    method = self.defaults.sampler(sampler, num_steps, **options)
    cond, scale = self._cond(num, labels, guidance_scale)
    denoiser = self.defaults.guided(self.denoiser, scale)
    if cfgpp:
      check_cfgpp(scale, prompt)
    known, mask = self._encoded(init_image), self._reduced(mask, init_image, shape)

    def assemble(report=None):
      wrapped = samplers.MeanGuided(method) if cfgpp else method
      guided, wrapped = prompt.guide(denoiser, wrapped, report) if prompt else (denoiser, wrapped)
      wrapped = wrapped if repeats in (None, 1) else samplers.Recurrent(wrapped, repeats)
      edited, levels, start = edit(guided, sigmas, known, mask, strength, shape)
      if isinstance(method, samplers.Restart):
        method.check_grid(levels)
      return edited, wrapped, self.codec, levels, jax.random.key(seed), start

    program = compiled_draw(self.layout, shape, floats, trajectory)
    size = min(batch_size, num)  # of all attempts: another would compile anew

    def draw_these(numbers):
      asked = jax.tree.map(lambda a: a[numbers % APART], (cond, noise))
      return draw_batches(program, self.layout, assemble, asked, numbers, size, progress, again=prompt is not None)

    drawn = draw_these(np.arange(num))
    if prompt is None or noise is not None:
      return drawn
    for attempt in range(1, ATTEMPTS):
      refused = np.flatnonzero(~processes.of_first(prompt.accepts(drawn.images)))
      if not refused.size:
        break
      put(drawn, refused, draw_these(refused + attempt * APART))
    return drawn

  def _levels(self, steps, grid, sigmas):
    if sigmas is None:
      return self.defaults.grid(self.defaults.steps if steps is None else steps, grid)
    if steps is not None or grid is not None:
      raise ValueError("sigmas are the noise levels themselves; leave steps and grid out.")
    check_grid(sigmas)
    return sigmas

  def _x0_shape(self):
    images = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
    return jax.eval_shape(self.codec.encode, images).shape[1:]

  def _cond(self, num, labels, scale):
    """(cond, guidance scale): the scale is None where there is nothing to guide away from."""
    cond = self.conditioner.cond(num, labels=labels)
    if cond is None:
      if scale is not None:
        raise ValueError("guidance_scale acts on a label, and none was asked for; pass one, or leave the scale out.")
      return None, None
    if self.conditioner.null_cond is None:
      if scale is not None:
        raise ValueError("this network has no null label to guide away from; leave guidance_scale out.")
      return cond, None
    return cond, self.defaults.guidance_scale if scale is None else scale

  def _encoded(self, init_image):
    if init_image is None:
      return None
    shape = self.image_shape
    if init_image.shape != shape or init_image.dtype != np.uint8:
      raise ValueError(f"init_image is {init_image.dtype} {init_image.shape}, but this model draws uint8 {shape}.")
    return np.asarray(self.codec.encode(to_float(init_image[None])))

  def _reduced(self, mask, init_image, shape):
    """A mask as float32 [1, h, w, 1] in x0's size, where a place is drawn anew if any of its pixels is."""
    if mask is None or init_image is None:
      return mask
    size = self.image_shape[:2]
    if mask.shape != size or mask.dtype != bool:
      raise ValueError(f"mask is {mask.dtype} {mask.shape}, but must be bool {size}, as the init image.")
    return einops.reduce(mask, "(h a) (w b) -> 1 h w 1", "max", h=shape[0], w=shape[1]).astype(np.float32)


def check_cfgpp(scale: float | None, prompt: Guide | None) -> None:
  """Raises ValueError unless there is guidance by a label alone, with a scale in [0, 1]."""
  if prompt is not None or scale is None:
    raise ValueError(
      "cfgpp acts on guidance by a label alone; ask for one, of a model with a null label and without a prompt, or"
      " leave it out."
    )
  if not 0 <= scale <= 1:
    raise ValueError(f"cfgpp takes a guidance_scale in [0, 1], and it is {scale}; give 0.6, for example.")
