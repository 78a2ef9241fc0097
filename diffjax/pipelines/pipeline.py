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
from diffjax.cluster.layouts import DrawingLayout, Replicated
from diffjax.codecs import Pixels, to_float
from diffjax.conditioning import Unconditional
from diffjax.grids import check_grid
from diffjax.pipelines.drawing import Drawn, compiled, draw_batches, edit, put
from diffjax.system import compilation, memory
from diffjax.tiling import fitting
from diffjax.typing import Array, Codec, Cond, Conditioner, Denoiser, Sampler

MAX_ATTEMPTS = 5
"""How many times an image is drawn at most, while the prompt rejects it."""
APART = 2**28
"""Offset between the numbers of a image's attempts; at most this many images are drawn at once."""


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

  @property
  def batch_size(self) -> int:
    """How many images are drawn at a time."""
    ...

  @property
  def sampler_name(self) -> str:
    """The name of the default sampler."""
    ...

  def grid(self, num_steps: int, name: str | None = None) -> Array:
    """The noise levels [num_steps + 1] for a number of steps, by default or from the named grid."""
    ...

  def start_std(self, sigma: Array) -> Array:
    """The standard deviation of x at the first level, from noise alone."""
    ...

  def sampler(self, name: str | None, steps: int, /, **options: Any) -> Sampler:
    """The default or named sampler for this number of steps, with those options that are not None."""
    ...

  def guided(self, denoiser: Denoiser, null_cond: Cond = None, scale: float | None = None) -> Denoiser:
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
    """Both, guided by the images that `codec` decodes from x0; `report` as in `guidance.EnergyGuidance`."""
    ...

  def accepts(self, images: np.ndarray) -> np.ndarray:
    """Whether each of the images, uint8 or in -1..1 [N, H, W, C], matches the prompt, bool [N]."""
    ...


@dataclasses.dataclass(frozen=True)
class Pipeline:
  """A denoiser with its parameters and everything needed to turn requests into images.

  Attributes:
    denoiser: the model, unguided.
    image_shape: (H, W, C) of the images it draws.
    defaults: settings that `draw` uses unless given others.
    codec: between images and the model's x0.
    conditioner: from requests, such as labels or texts, to the model's cond.
    layout: how the model is laid out on the devices.
    preview_codec: a faster codec for the trajectory; None: `codec`.
    inpaints: whether the network itself reads which part of an image is to be drawn, and the rest of it.
  """

  denoiser: Denoiser
  image_shape: tuple[int, int, int]
  defaults: Defaults
  codec: Codec = dataclasses.field(default_factory=Pixels)
  conditioner: Conditioner = dataclasses.field(default_factory=Unconditional)
  layout: DrawingLayout = Replicated
  preview_codec: Codec | None = None
  inpaints: bool = False

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
    size: tuple[int, int] | None = None,
    labels: np.ndarray | None = None,
    prompt: str | Sequence[str] | Guide | None = None,
    negative_prompt: str | None = None,
    prompt_syntax: str | None = None,
    clip_skip: int | None = None,
    guidance_scale: float | None = None,
    guide: Guide | None = None,
    cfgpp: bool = False,
    repeats: int | None = None,
    init_image: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    strength: float | None = None,
    batch_size: int | None = None,
    floats: bool = False,
    trajectory: bool = False,
    progress: Callable[[Sequence[int]], Iterable[int]] = lambda batches: batches,
    **options: float | None,
  ) -> Drawn:
    """Draws images; each depends only on the seed and its own number.

    An image that the guide rejects is redrawn from new noise, up to `MAX_ATTEMPTS` times in all.

    Args:
      num: how many.
      steps: noise levels above zero.
      sampler: its name; default: that of the prompt's guidance, or the model's own.
      grid: its name.
      sigmas: the noise levels themselves, [steps + 1], descending to 0, instead of `steps` and `grid`.
      seed: of all randomness.
      noise: standard normal [num, ...] in x0's shape to start from, instead of the seed's.
      size: (H, W) of the images, if other than `image_shape`; for networks that allow it.
      labels: int [num] in 0..num_classes-1 for a conditional model; without them it draws unconditionally.
      prompt: what to draw: for a text-to-image model a text, or one for each image; for any other a `guide`.
      negative_prompt: what to guide away from, for a text-to-image model; default: the empty text.
      prompt_syntax: how weights in texts are written, one of `prompt_weights.SYNTAXES`; default: "a1111".
      clip_skip: leaves out this many of the text encoder's last layers.
      guidance_scale: of classifier-free guidance, for images with labels or texts.
      guide: from `runs.make_prompt`, CLIP guidance, which is added to that by labels or texts.
      cfgpp: use CFG++ (`samplers.MeanGuided`), which renoises with the unguided model's noise; the scale is in [0, 1].
      repeats: time travel (`samplers.Recurrent`): how often each step is taken, multiplying the network calls;
        default: that of the prompt's guidance, or once.
      init_image: uint8 [H, W, C], an image to start from (SDEdit) instead of noise.
      mask: bool [H, W], True where the init image is regenerated (inpainting); elsewhere it is kept unchanged.
      strength: in (0, 1], the fraction of the steps that are run; default: 1 with a mask, 0.5 without. Below 1, the
        masked part also starts from the init image.
      batch_size: images drawn at a time.
      floats: return images as float32, neither rounded nor clipped, and the noise they started from.
      trajectory: also return the trajectory from noise to image.
      progress: wraps the list of batches, `tqdm` for example.
      **options: hyper-parameters of the sampler, such as eta.

    Raises:
      ValueError: a number out of range, an unknown name, labels for a model that has none, an init image, mask, noise
        or grid of the wrong shape or dtype, cfgpp without guidance or with a scale outside [0, 1].
      FloatingPointError: an image is NaN or infinite.
      MemoryError: a device runs out of memory.
    """
    if num < 1:
      raise ValueError(f"num is {num}, but must be at least 1; raise it.")
    if num > APART:
      raise ValueError(f"num is {num}, but must be at most {APART}; draw fewer, with several seeds.")
    batch_size = self.defaults.batch_size if batch_size is None else batch_size
    if batch_size < 1:
      raise ValueError(f"batch_size is {batch_size}, but must be at least 1; raise it.")
    check_numbers({"seed": seed})
    if prompt is not None and not isinstance(prompt, str | Sequence):
      prompt, guide = None, prompt
    sigmas, image_shape, shape = self.shapes(steps, grid, size, sigmas)
    if noise is not None and np.shape(noise) != (num, *shape):
      raise ValueError(
        f"noise has shape {np.shape(noise)}, but {num} images start from {(num, *shape)}; pass that shape."
      )
    num_steps = len(sigmas) - 1
    if guide:
      guide, repeats = guide.at(num_steps, repeats), 1
      sampler = sampler or guide.sampler
    method = self.defaults.sampler(sampler, num_steps, **options)
    texts = dict(prompt=prompt, negative_prompt=negative_prompt, prompt_syntax=prompt_syntax, clip_skip=clip_skip)
    asked = {name: value for name, value in {"labels": labels, **texts}.items() if value is not None}
    cond, null_cond, scale = self._cond(num, image_shape[:2], asked, guidance_scale)
    if cfgpp:
      check_cfgpp(scale, guide)
    known, hole = self._encoded(init_image, image_shape), self._reduced(mask, init_image, shape)
    if self.inpaints:
      concat = self._around_hole(init_image, mask, hole)
      cond = (cond or {}) | {"concat": np.broadcast_to(concat, (num, *concat.shape))}
      null_cond = None if null_cond is None else null_cond | {"concat": concat}
      known, hole = None if strength in (None, 1.0) else known, None  # the network fills the hole, not the sampler
      strength = None if known is None else strength
    denoiser = self.defaults.guided(self.denoiser, null_cond, scale)

    def assemble(report=None):
      wrapped = samplers.MeanGuided(method) if cfgpp else method
      guided, wrapped = guide.guide(denoiser, wrapped, self.codec, report) if guide else (denoiser, wrapped)
      wrapped = wrapped if repeats in (None, 1) else samplers.Recurrent(wrapped, repeats)
      edited, levels, start = edit(guided, sigmas, known, hole, strength, shape)
      std = levels[0] if known is not None else self.defaults.start_std(levels[0])
      if isinstance(method, samplers.Restart):
        method.check_grid(levels)
      return edited, wrapped, levels, std, jax.random.key(seed), start

    programs = compiled(self.layout, shape, floats, trajectory)
    codec = fitting(self.codec, shape, memory.device_bytes())
    codecs = (codec, self.preview_codec or codec)
    at_once = min(batch_size, num)  # for all attempts: another size would recompile

    def draw_these(numbers):
      own = jax.tree.map(lambda a: a[numbers % APART], (cond, noise))
      again = guide is not None
      return draw_batches(programs, self.layout, codecs, assemble, own, numbers, at_once, progress, again=again)

    drawn = draw_these(np.arange(num))
    if guide is not None and noise is None:
      for attempt in range(1, MAX_ATTEMPTS):
        refused = np.flatnonzero(~processes.broadcast(guide.accepts(drawn.images)))
        if not refused.size:
          break
        put(drawn, refused, draw_these(refused + attempt * APART))
    if mask is not None and init_image is not None:  # a codec changes what is around the mask too
      kept = jnp.asarray(init_image)
      drawn.images[:, ~mask] = np.asarray(to_float(kept) if floats else kept)[~mask]
    return drawn

  def shapes(
    self,
    steps: int | None = None,
    grid: str | None = None,
    size: tuple[int, int] | None = None,
    sigmas: Array | None = None,
  ) -> tuple[Array, tuple[int, int, int], tuple[int, ...]]:
    """(noise levels [steps + 1], shape of an image, shape of its x0); arguments and errors as `draw`."""
    image_shape = self._image_shape(size)
    return self._levels(steps, grid, sigmas), image_shape, self._x0_shape(image_shape)

  def _levels(self, steps, grid, sigmas):
    if sigmas is None:
      return self.defaults.grid(self.defaults.steps if steps is None else steps, grid)
    if steps is not None or grid is not None:
      raise ValueError("sigmas already gives the noise levels; leave steps and grid out.")
    check_grid(sigmas)
    return sigmas

  def _image_shape(self, size):
    if size is None:
      return self.image_shape
    side = self.codec.downscaling
    if not all(length > 0 and length % side == 0 for length in size):
      nearest = "x".join(str(max(round(length / side), 1) * side) for length in size)
      raise ValueError(
        f"size is {'x'.join(map(str, size))}, but both sides must be multiples of {side} for this model; use {nearest}."
      )
    return (*size, self.image_shape[2])

  def _x0_shape(self, image_shape):
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(lambda codec, images: codec.encode(images), self.codec, images).shape[1:]

  def _cond(self, num, size, asked, scale):
    """(cond, null cond, guidance scale); the scale is None without a cond or a null cond."""
    cond, null_cond = self.conditioner.conds(num, size, **asked)
    if cond is None:
      if scale is not None:
        raise ValueError("guidance_scale needs a label; pass one, or omit the scale.")
      return None, None, None
    if null_cond is None:
      if scale is not None:
        raise ValueError("this network has no null label to guide away from; omit guidance_scale.")
      return cond, None, None
    scale = self.defaults.guidance_scale if scale is None else scale
    if "negative_prompt" in asked and scale <= 1:
      raise ValueError(
        f"negative_prompt has no effect with a guidance_scale of {scale}; raise that above 1, or omit the prompt."
      )
    return cond, null_cond, scale

  def _encoded(self, init_image, shape):
    if init_image is None:
      return None
    if init_image.shape != shape or init_image.dtype != np.uint8:
      raise ValueError(
        f"init_image is {init_image.dtype} {init_image.shape}, but this model draws uint8 {shape}; convert it."
      )
    return np.asarray(_encode(self.codec, to_float(init_image[None])))

  def _around_hole(self, init_image, mask, hole):
    """cond["concat"] of an inpainting network, [h, w, 1 + c]: the mask, and x0 of the image without what it covers.

    Rombach et al. 2022, section 4.5, as in the released models: the mask's first pixels, the covered ones grey.
    """
    if init_image is None or mask is None:
      raise ValueError("this model redraws a part of an image; give an init image and a mask.")
    uncovered = np.where(mask[..., None], np.float32(0), np.asarray(to_float(jnp.asarray(init_image))))
    x0 = np.asarray(_encode(self.codec, uncovered[None]))[0]
    rows, columns = (pixels // latents for pixels, latents in zip(mask.shape, hole.shape[1:3]))
    return np.concatenate([mask[::rows, ::columns, None].astype(np.float32), x0], axis=-1)

  def _reduced(self, mask, init_image, shape):
    """A mask as float32 [1, h, w, 1] in x0's size; a position is regenerated if any of its pixels is."""
    if mask is None or init_image is None:
      return mask
    size = init_image.shape[:2]
    if mask.shape != size or mask.dtype != bool:
      raise ValueError(f"mask is {mask.dtype} {mask.shape}, but must be bool {size}, as the init image; convert it.")
    return einops.reduce(mask, "(h a) (w b) -> 1 h w 1", "max", h=shape[0], w=shape[1]).astype(np.float32)


@compilation.jit
def _encode(codec: Codec, images: Array) -> Array:
  return codec.encode(images)


def check_cfgpp(scale: float | None, guide: Guide | None) -> None:
  """Raises ValueError unless guidance is by a label only, with a scale in [0, 1]."""
  if guide is not None or scale is None:
    raise ValueError(
      "cfgpp needs guidance by a label and no prompt; pass a label to a model with a null label, or drop cfgpp."
    )
  if not 0 <= scale <= 1:
    raise ValueError(f"guidance_scale is {scale}, but must lie in [0, 1] with cfgpp; try 0.6, for example.")
