"""CLIP's two towers (Radford et al. 2021), with OpenCLIP's sizes and SigLIP's pooling and bias as options.

Images are [B, H, W, C], already processed by `preprocess`; texts are token ids [B, L].
"""

import math

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from diffjax import struct
from diffjax.networks.layers import Dense
from diffjax.networks.transformer import ACTIVATIONS, AttentionPool, Transformer, layer_norm
from diffjax.typing import Array

IMAGE_POOLINGS = ("class", "attention")
TEXT_POOLINGS = ("highest", "eos", "last")


@struct.dataclass
class Encoded:
  """A tower's output.

  features: [B, D], projected but not normalised; similarities are computed from these.
  pooled: [B, width], before the projection.
  last: [B, L, width], the last layer's output; normalised in the text tower and before attention pooling.
  hidden: the first layer's input, then each layer's output, layers + 1 of [B, L, width]; hidden[-2] is the
    penultimate one. Under jit, unused ones cost nothing.
  """

  features: Array
  pooled: Array
  last: Array
  hidden: tuple[Array, ...]


class ImageEncoder(nn.Module):
  """A vision transformer for images [B, image_size, image_size, channels] (Dosovitskiy et al. 2021; CLIP, 2.4).

  pooling="class" uses a class token and normalises before the layers; "attention" is SigLIP's pooling, without either
  (Zhai et al. 2023). features=None omits the projection.
  """

  image_size: int
  patch: int
  width: int
  layers: int
  heads: int
  features: int | None = None
  mlp_width: int | None = None
  activation: str = "quick_gelu"
  pooling: str = "class"
  channels: int = 3
  norm_eps: float = 1e-5
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images: Array) -> Encoded:
    _check_tower(self, IMAGE_POOLINGS)
    self._check(images)
    norm = lambda name: layer_norm(self.norm_eps, self.dtype, name)
    x = self._patches(images)
    if self.pooling == "class":
      token = self.param("class_token", nn.initializers.normal(self.width**-0.5), (self.width,), jnp.float32)
      token = jnp.broadcast_to(token.astype(self.dtype), (x.shape[0], 1, self.width))
      x = jnp.concatenate([token, x], axis=1)
    positions = self.param("positions", nn.initializers.normal(self.width**-0.5), x.shape[1:], jnp.float32)
    x = x + positions.astype(self.dtype)[None]
    if self.pooling == "class":
      x = norm("norm_in")(x)
    hidden = _transformer(self)(x)
    if self.pooling == "class":
      last = hidden[-1]
      pooled = norm("norm_out")(last[:, 0])
    else:
      last = norm("norm_out")(hidden[-1])
      mlp_width = self.mlp_width or 4 * self.width
      pooled = AttentionPool(self.heads, mlp_width, self.activation, self.norm_eps, self.dtype, name="pool")(last)
    return Encoded(_project(self, pooled, use_bias=False), pooled, last, hidden)

  def _patches(self, images):
    """Tokens [B, L, width] by a convolution whose stride is its kernel size, as one matrix product."""
    p, C = self.patch, self.channels
    whole = self.image_size // p * p
    kernel = self.param("patch_kernel", nn.initializers.lecun_normal(), (p, p, C, self.width), jnp.float32)
    x = images.astype(self.dtype)[:, :whole, :whole]
    x = einops.rearrange(x, "B (H p) (W q) C -> B (H W) (p q C)", p=p, q=p)
    x = jnp.dot(x, kernel.reshape(p * p * C, self.width).astype(self.dtype))
    if self.pooling == "class":
      return x
    return (
      x + self.param("patch_bias", nn.initializers.zeros, (self.width,), jnp.float32).astype(self.dtype)[None, None]
    )

  def _check(self, images):
    expected = (self.image_size, self.image_size, self.channels)
    if images.ndim != 4 or images.shape[1:] != expected:
      raise ValueError(
        f"this image encoder expects images [B, {', '.join(map(str, expected))}], got {images.shape}; "
        f"use networks.preprocess(images, {self.image_size}), which resizes, crops and expands gray to three channels."
      )
    if not jnp.issubdtype(images.dtype, jnp.floating):
      raise ValueError(f"the image encoder expects floating-point images, got {images.dtype}; use networks.preprocess.")


class TextEncoder(nn.Module):
  """A transformer for token ids [B, L], L at most context, with learned positions (Radford et al. 2021, section 2.4).

  pooling: "highest" takes the position of a row's highest id, CLIP's rule, since end-of-text is last in its
  vocabulary; "eos" the first position of eos_id, or position 0 if there is none; "last" the last position (SigLIP).
  features=None omits the projection. An id outside the vocabulary gives NaN.
  """

  vocab_size: int
  width: int
  layers: int
  heads: int
  context: int = 77
  features: int | None = None
  mlp_width: int | None = None
  activation: str = "quick_gelu"
  pooling: str = "highest"
  eos_id: int = 49407
  causal: bool = True
  projection_bias: bool = False
  norm_eps: float = 1e-5
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, tokens: Array) -> Encoded:
    _check_tower(self, TEXT_POOLINGS)
    if tokens.ndim != 2 or not 1 <= tokens.shape[1] <= self.context or not jnp.issubdtype(tokens.dtype, jnp.integer):
      raise ValueError(
        f"this text encoder expects whole numbers [B, L] with L from 1 to {self.context}, got {tokens.dtype} "
        f"{tokens.shape}; use data.Tokenizer."
      )
    table = self.param("tokens", nn.initializers.normal(0.02), (self.vocab_size, self.width), jnp.float32)
    positions = self.param("positions", nn.initializers.normal(0.01), (self.context, self.width), jnp.float32)
    x = jnp.asarray(table).at[tokens].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    x = x.astype(self.dtype) + positions.astype(self.dtype)[None, : tokens.shape[1]]
    hidden = _transformer(self, causal=self.causal)(x)
    last = layer_norm(self.norm_eps, self.dtype, "norm_out")(hidden[-1])
    pooled = jnp.take_along_axis(last, self._place(tokens)[:, None, None], axis=1)[:, 0]
    return Encoded(_project(self, pooled, use_bias=self.projection_bias), pooled, last, hidden)

  def _place(self, tokens):
    if self.pooling == "last":
      return jnp.full(tokens.shape[:1], tokens.shape[1] - 1)
    return jnp.argmax(tokens == self.eos_id if self.pooling == "eos" else tokens, axis=1)


def _transformer(tower, causal=False):
  mlp_width = tower.mlp_width or 4 * tower.width
  shape = (tower.layers, tower.heads, mlp_width, tower.activation, causal, tower.norm_eps, tower.dtype)
  return Transformer(*shape, name="transformer")


def _project(tower, pooled, use_bias):
  if tower.features is None:
    return pooled
  return Dense(tower.features, use_bias=use_bias, dtype=tower.dtype, name="projection")(pooled)


def _check_tower(tower, poolings):
  for field, names in dict(activation=tuple(ACTIVATIONS), pooling=poolings).items():
    if getattr(tower, field) not in names:
      kind = type(tower).__name__
      raise ValueError(f"{kind} has no {field} {getattr(tower, field)!r}; choose one of {', '.join(names)}.")
  if tower.heads < 1 or tower.width % tower.heads:
    raise ValueError(f"width {tower.width} does not split into {tower.heads} heads; choose a number that divides it.")


class CLIP(nn.Module):
  """An image and a text tower with a shared feature space, a learned scale and, in SigLIP, a bias.

  log_scale and bias are initial values: the logarithm of the inverse temperature, CLIP's 1 / 0.07, and SigLIP's -10;
  bias=None means no bias. `apply(params, images, method="encode_image")` runs only one tower.
  """

  image: ImageEncoder
  text: TextEncoder
  log_scale: float = math.log(1 / 0.07)
  bias: float | None = None

  def setup(self):
    self.logit_scale = self.param("logit_scale", nn.initializers.constant(self.log_scale), (), jnp.float32)
    if self.bias is not None:
      self.logit_bias = self.param("logit_bias", nn.initializers.constant(self.bias), (), jnp.float32)

  def __call__(self, images: Array, tokens: Array) -> Array:
    """Logits [B, T] of images [B, H, W, C] and tokens [T, L]."""
    return self.similarity(self.encode_image(images).features, self.encode_text(tokens).features)

  def encode_image(self, images: Array) -> Encoded:
    """The image tower on images [B, image_size, image_size, channels]."""
    return self.image(images)

  def encode_text(self, tokens: Array) -> Encoded:
    """The text tower on token ids [B, L]."""
    return self.text(tokens)

  def similarity(self, image_features: Array, text_features: Array) -> Array:
    """exp(logit_scale) times the cosines of [B, D] and [T, D], plus the bias: float32 [B, T] (CLIP, figure 3)."""
    if image_features.shape[-1] != text_features.shape[-1]:
      raise ValueError(
        f"image features {image_features.shape} and text features {text_features.shape} have different lengths; "
        "give both towers the same `features`."
      )
    cosines = jnp.dot(unit(image_features), unit(text_features).T, precision=jax.lax.Precision.HIGHEST)
    bias = 0.0 if self.bias is None else self.logit_bias
    return jnp.exp(self.logit_scale) * cosines + bias


def unit(features: Array) -> Array:
  """features [..., D] divided by their Euclidean norm, in float32; zeros stay zeros, with a finite gradient."""
  features = features.astype(jnp.float32)
  squared = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
  return features * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))
