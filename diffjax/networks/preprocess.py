"""Differentiable preprocessing for CLIP: antialiased bicubic resize, centre crop, mean and standard deviation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.typing import Array

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SIGLIP_MEAN = SIGLIP_STD = (0.5, 0.5, 0.5)


def preprocess(
  images: Array,
  size: int,
  *,
  mean: tuple[float, ...] = CLIP_MEAN,
  std: tuple[float, ...] = CLIP_STD,
  crop: bool = True,
  clip: bool = True,
) -> Array:
  """Images of any size as float32 [B, size, size, 3] of about zero mean and unit variance (CLIP, section 2.4).

  Args:
    images: [B, H, W, C], floating point in -1..1 as everywhere in diffjax, or uint8 in 0..255. C is 3, or 1 for gray,
      which becomes three equal channels.
    size: side of the result in pixels.
    mean, std: per channel, for images in 0..1.
    crop: True scales the shorter side to size and takes the centre, as CLIP does; False squeezes both sides, as SigLIP.
    clip: clips values to 0..1 in the resize, as resizing uint8 images does. False keeps values outside and their
      gradients, for guidance.

  Raises:
    ValueError: if images are not [B, H, W, 1 or 3], of another dtype, or empty, or size is below 1.
  """
  if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape[1:3]:
    raise ValueError(
      f"preprocess expects images [B, H, W, C] with 1 or 3 channels, got {images.shape}; reshape or convert them."
    )
  if size < 1:
    raise ValueError(f"preprocess expects a size of at least one pixel, got {size}; raise it.")
  x = resize(_unit_range(images), size, crop=crop, bounds=(0.0, 1.0) if clip else None)
  x = jnp.broadcast_to(x, (*x.shape[:3], 3))
  centre, width = (jnp.asarray(a, jnp.float32)[None, None, None] for a in (mean, std))
  return (x - centre) / width


def _unit_range(images):
  if images.dtype == jnp.uint8:
    return images.astype(jnp.float32) / 255
  if jnp.issubdtype(images.dtype, jnp.floating):
    return (images.astype(jnp.float32) + 1) / 2
  raise ValueError(f"preprocess expects floating-point images in -1..1, or uint8, got {images.dtype}; convert them.")


def resize(images: Array, size: int, *, crop: bool = True, bounds: tuple[float, float] | None = None) -> Array:
  """images [B, H, W, C] -> [B, size, size, C] by antialiased bicubic interpolation, in float32.

  With crop, the shorter side becomes size and the longer one int(size * long / short), of which the centre is kept;
  cropped pixels are never computed. Each axis takes one product with a constant matrix, width first, as in Pillow when
  proportions are kept; bounds clips after each, since the kernel overshoots at edges.
  """
  H, W = images.shape[1:3]
  long_of = lambda n: size * n // min(H, W) if crop else size
  rows, columns = (jnp.asarray(bicubic_matrix(n, long_of(n), size), jnp.float32) for n in (H, W))
  clip = lambda x: x if bounds is None else jnp.clip(x, *bounds)
  product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
  x = clip(product("wW,BHWC->BHwC", columns, images.astype(jnp.float32)))
  return clip(product("hH,BHwC->BhwC", rows, x))


@functools.lru_cache(maxsize=64)
def bicubic_matrix(length: int, resized: int, kept: int) -> np.ndarray:
  """Weights [kept, length] that resize a line of pixels to `resized` and keep its centre (Keys 1981, a = -1/2).

  Antialiased: when shrinking, the kernel widens by length / resized; weights are normalised at the edges.
  """
  scale = length / resized
  first = (resized - kept) // 2
  centre = (np.arange(first, first + kept) + 0.5) * scale - 0.5
  distance = np.abs(np.arange(length)[None] - centre[:, None]) / max(scale, 1.0)
  inner = (1.5 * distance - 2.5) * distance**2 + 1
  outer = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
  weights = np.where(distance < 1, inner, np.where(distance < 2, outer, 0.0))
  return weights / weights.sum(axis=1, keepdims=True)
