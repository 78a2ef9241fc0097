"""A model with everything needed to sample from it, whatever its source."""

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

MAX_ATTEMPTS = 5
"""How many times a picture is drawn at most, while the prompt rejects it."""
APART = 2**28
"""Offset between the numbers of a picture's attempts; at most this many pictures are drawn at once."""


class Defaults(Protocol):
  """Default sampling settings, from a run's config or a folder of published weights."""

  @property
  def steps(self) -> int:
    """The number of sampler steps."""
    ...

  @property
  def guidance_scale(self) -> float:
    """The scale of classifier-free guidance."""
    ...

  def grid(self, num_steps: int, name: str | None = None) -> Array:
    """The noise levels [num_steps + 1] for a number of steps, by default or from the named grid."""
    ...

  def sampler(self, name: str | None, steps: int, /, **options: Any) -> Sampler:
    """The default or named sampler for this number of steps, with those options that are not None."""
    ...

  def guided(self, denoiser: Denoiser, scale: float | None = None) -> Denoiser:
    """The denoiser with classifier-free guidance, if there is a scale, and any wrappers it always has."""
    ...


class Guide(Protocol):
  """A prompt that is not a cond: it guides denoiser and sampler, as `runs.Prompt` does."""

  @property
  def sampler(self) -> str | None:
    """The name of the guidance's default sampler; None: the model's own."""
    ...

  def at(self, num_steps: int, repeats: int | None = None) -> "Guide":
    """The same for a number of steps, each taken `repeats` times; None: the guidance's own number."""
    ...

  def guide(
    self, denoiser: Denoiser, sampler: Sampler, codec: Codec, report: Callable[[int, float], None] | None = None
  ) -> tuple[Denoiser, Sampler]:
    """Both, guided by the pictures that `codec` decodes from x0; `report` as in `guidance.EnergyGuidance`."""
    ...

  def accepts(self, images: np.ndarray) -> np.ndarray:
    """Whether each of the pictures, uint8 or in -1..1 [N, H, W, C], matches the prompt, bool [N]."""
    ...


@dataclasses.dataclass(frozen=True)
class Pipeline:
  """A denoiser with its parameters and everything needed to turn requests into pictures.

  Attributes:
    denoiser: the model, unguided.
    image_shape: (H, W, C) of the pictures it draws.
    defaults: settings that `draw` uses unless given others.
    codec: between pictures and the model's x0.
    conditioner: from requests, such as labels, to the model's cond.
    layout: how the model is laid out on the devices.
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
    """Draws pictures; each depends only on the seed and its own number.

    A picture that the prompt rejects is redrawn from new noise, up to `MAX_ATTEMPTS` times in all.

    Args:
      num: how many.
      steps: noise levels above zero.
      sampler: its name; default: that of the prompt's guidance, or the model's own.
      grid: its name.
      sigmas: the noise levels themselves, [steps + 1], descending to 0, instead of `steps` and `grid`.
      seed: of all randomness.
      noise: standard normal [num, ...] in x0's shape to start from, instead of the seed's.
      labels: int [num] in 0..num_classes-1 for a conditional model; without them it draws unconditionally.
      guidance_scale: of classifier-free guidance, for pictures with labels.
      prompt: what to draw, from `runs.make_prompt`; its guidance is added to that by labels.
      cfgpp: use CFG++ (`samplers.MeanGuided`), which renoises with the unguided model's noise; the scale is in [0, 1].
      repeats: time travel (`samplers.Recurrent`): how often each step is taken, multiplying the network calls;
        default: that of the prompt's guidance, or once.
      init_image: uint8 [H, W, C], a picture to start from (SDEdit) instead of noise.
      mask: bool [H, W], True where the init image is regenerated (inpainting); elsewhere it is kept unchanged.
      strength: in (0, 1], the fraction of the steps that are run; default: 1 with a mask, 0.5 without. Below 1, the
        masked part also starts from the init image.
      batch_size: pictures drawn at a time.
      floats: return pictures as float32, neither rounded nor clipped, and the noise they started from.
      trajectory: also return the trajectory from noise to picture.
      progress: wraps the list of batches, `tqdm` for example.
      **options: hyper-parameters of the sampler, such as eta.

    Raises:
      ValueError: a number out of range, an unknown name, labels for a model that has none, an init image, mask, noise
        or grid of the wrong shape or dtype, cfgpp without guidance or with a scale outside [0, 1].
      FloatingPointError: a picture is NaN or infinite.
      MemoryError: a device runs out of memory.
    """
    if num < 1:
      raise ValueError(f"num is {num}, but must be at least 1; raise it.")
    if batch_size < 1:
      raise ValueError(f"batch_size is {batch_size}, but must be at least 1; raise it.")
    check_numbers({"seed": seed})
    sigmas, shape = self._levels(steps, grid, sigmas), self._x0_shape()
    if noise is not None and np.shape(noise) != (num, *shape):
      raise ValueError(
        f"noise has shape {np.shape(noise)}, but {num} images start from {(num, *shape)}; pass that shape."
      )
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
      guided, wrapped = prompt.guide(denoiser, wrapped, self.codec, report) if prompt else (denoiser, wrapped)
      wrapped = wrapped if repeats in (None, 1) else samplers.Recurrent(wrapped, repeats)
      edited, levels, start = edit(guided, sigmas, known, mask, strength, shape)
      if isinstance(method, samplers.Restart):
        method.check_grid(levels)
      return edited, wrapped, self.codec, levels, jax.random.key(seed), start

    program = compiled_draw(self.layout, shape, floats, trajectory)
    size = min(batch_size, num)  # for all attempts: another size would recompile

    def draw_these(numbers):
      asked = jax.tree.map(lambda a: a[numbers % APART], (cond, noise))
      return draw_batches(program, self.layout, assemble, asked, numbers, size, progress, again=prompt is not None)

    drawn = draw_these(np.arange(num))
    if prompt is None or noise is not None:
      return drawn
    for attempt in range(1, MAX_ATTEMPTS):
      refused = np.flatnonzero(~processes.broadcast(prompt.accepts(drawn.images)))
      if not refused.size:
        break
      put(drawn, refused, draw_these(refused + attempt * APART))
    return drawn

  def _levels(self, steps, grid, sigmas):
    if sigmas is None:
      return self.defaults.grid(self.defaults.steps if steps is None else steps, grid)
    if steps is not None or grid is not None:
      raise ValueError("sigmas already gives the noise levels; leave steps and grid out.")
    check_grid(sigmas)
    return sigmas

  def _x0_shape(self):
    images = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
    return jax.eval_shape(self.codec.encode, images).shape[1:]

  def _cond(self, num, labels, scale):
    """(cond, guidance scale); the scale is None without a cond or a null cond."""
    cond = self.conditioner.cond(num, labels=labels)
    if cond is None:
      if scale is not None:
        raise ValueError("guidance_scale needs a label; pass one, or omit the scale.")
      return None, None
    if self.conditioner.null_cond is None:
      if scale is not None:
        raise ValueError("this network has no null label to guide away from; omit guidance_scale.")
      return cond, None
    return cond, self.defaults.guidance_scale if scale is None else scale

  def _encoded(self, init_image):
    if init_image is None:
      return None
    shape = self.image_shape
    if init_image.shape != shape or init_image.dtype != np.uint8:
      raise ValueError(
        f"init_image is {init_image.dtype} {init_image.shape}, but this model draws uint8 {shape}; convert it."
      )
    return np.asarray(self.codec.encode(to_float(init_image[None])))

  def _reduced(self, mask, init_image, shape):
    """A mask as float32 [1, h, w, 1] in x0's size; a position is regenerated if any of its pixels is."""
    if mask is None or init_image is None:
      return mask
    size = self.image_shape[:2]
    if mask.shape != size or mask.dtype != bool:
      raise ValueError(f"mask is {mask.dtype} {mask.shape}, but must be bool {size}, as the init image; convert it.")
    return einops.reduce(mask, "(h a) (w b) -> 1 h w 1", "max", h=shape[0], w=shape[1]).astype(np.float32)


def check_cfgpp(scale: float | None, prompt: Guide | None) -> None:
  """Raises ValueError unless guidance is by a label only, with a scale in [0, 1]."""
  if prompt is not None or scale is None:
    raise ValueError(
      "cfgpp needs guidance by a label and no prompt; pass a label to a model with a null label, or drop cfgpp."
    )
  if not 0 <= scale <= 1:
    raise ValueError(f"guidance_scale is {scale}, but must lie in [0, 1] with cfgpp; try 0.6, for example.")
