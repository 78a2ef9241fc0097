"""The U-Net of Stable Diffusion, conditioned on a text's hidden states."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax.numpy as jnp

from diffjax.networks.layers import Conv, Dense, GroupNorm, sinusoidal_embedding
from diffjax.networks.resample import upsample
from diffjax.networks.residual import ResidualBlock
from diffjax.networks.spatial_transformer import SpatialTransformer
from diffjax.typing import Array, Cond

CONDITIONS = ("context", "pooled", "sizes", "label", "concat", "guidance")


def cosines_and_sines(t: Array, features: int) -> Array:
  """Cosines, then sines of t [B]: [B, features]; frequencies as in `sinusoidal_embedding` without the endpoint."""
  sines, cosines = jnp.split(sinusoidal_embedding(t, features, endpoint=False), 2, axis=-1)
  return jnp.concatenate([cosines, sines], axis=-1)


class Embedding(nn.Module):
  """x [B, D] -> dense -> silu -> dense: [B, features]."""

  features: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = nn.silu(Dense(self.features, dtype=self.dtype, name="dense_0")(x))
    return Dense(self.features, dtype=self.dtype, name="dense_1")(x)


class TextUNet(nn.Module):
  """U-Net of latent diffusion models: `apply(params, x, c_noise, cond)` -> float32 [B, H, W, out_channels].

  Covers Stable Diffusion 1, 2 and XL with its refiner, their inpainting and depth models, the x4 upscaler, and latent
  consistency models (Rombach et al. 2022; Podell et al. 2023; Luo et al. 2023); `PUBLISHED_TEXT_UNETS` has their
  configurations. Any height and width is allowed.

  Attributes:
    out_channels: channels of the prediction.
    widths: channels of each level; level i has half the resolution of level i - 1.
    layers_per_level: residual blocks, each followed by a transformer where the level attends, on the way down; the way
      up has one more.
    attending: whether each level attends to the text; the middle always does.
    depth: blocks in each of a level's transformers; the middle has the last level's.
    num_heads: attention heads of each level.
    only_cross_attention: whether the transformers of each level attend to the text alone; the middle's never do.
    size_dim: features of each number in cond["sizes"], with which cond["pooled"] is embedded too (SDXL); 0: neither.
    num_labels: cond["label"] lies in 0..num_labels-1 (the x4 upscaler's noise level); 0: no label.
    guidance_dim: features of cond["guidance"], the guidance scale of a distilled model; 0: none.
    num_groups, norm_eps: of the group norms.
    dtype: of the computation.
    remat: recompute each block in the backward pass instead of keeping its activations.
  """

  out_channels: int = 4
  widths: Sequence[int] = (320, 640, 1280, 1280)
  layers_per_level: int = 2
  attending: Sequence[bool] = (True, True, True, False)
  depth: Sequence[int] = (1, 1, 1, 1)
  num_heads: Sequence[int] = (8, 8, 8, 8)
  only_cross_attention: Sequence[bool] = (False, False, False, False)
  size_dim: int = 0
  num_labels: int = 0
  guidance_dim: int = 0
  num_groups: int = 32
  norm_eps: float = 1e-5
  dtype: jnp.dtype = jnp.float32
  remat: bool = False

  cross_attention = True  # read by networks.contract
  largest_c_noise_at_least = 10.0

  @nn.compact
  def __call__(self, x: Array, c_noise: Array, cond: Cond = None, *, key: Array | None = None) -> Array:
    """Runs the network.

    Args:
      x: [B, H, W, C].
      c_noise: [] or [B], the time step, 0 to 999 in published models.
      cond: a dict with "context" [B, L, D], the text's hidden states; and, as the fields need, "pooled" [B, P], the
        text's vector; "sizes" [B, N], heights and widths in pixels; "label" int32 [B]; "guidance" [B]; "concat"
        [B, H, W, c], further input channels.
      key: unused; the network has no dropout.

    Raises:
      ValueError: if cond lacks what the fields need, or has what they do not.
    """
    cond = {} if cond is None else cond
    self._check(x, c_noise, cond)
    emb = nn.silu(self._embed(jnp.broadcast_to(c_noise, x.shape[:1]), cond)).astype(self.dtype)
    context = cond["context"].astype(self.dtype)
    if "concat" in cond:
      x = jnp.concatenate([x, cond["concat"].astype(x.dtype)], axis=-1)
    x = Conv(self.widths[0], dtype=self.dtype, name="conv_in")(x)
    x, skips = self._down(x, emb, context)
    x = self._middle(x, emb, context)
    x = self._up(x, skips, emb, context)
    x = nn.silu(GroupNorm(self.num_groups, self.norm_eps, least=1, name="norm_out")(x))
    return Conv(self.out_channels, zero_init=True, dtype=self.dtype, name="conv_out")(x).astype(jnp.float32)

  def _down(self, x, emb, context):
    skips = [x]
    for level, width in enumerate(self.widths):
      for i in range(self.layers_per_level):
        x = self._residual(width, f"down_{level}_block_{i}")(x, emb)
        if self.attending[level]:
          x = self._transformer(level, f"down_{level}_transformer_{i}")(x, context)
        skips.append(x)
      if level < len(self.widths) - 1:
        x = Conv(width, stride=2, centred=True, dtype=self.dtype, name=f"down_{level}_downsample")(x)
        skips.append(x)
    return x, skips

  def _middle(self, x, emb, context):
    width, last = self.widths[-1], len(self.widths) - 1
    x = self._residual(width, "middle_block_0")(x, emb)
    x = self._transformer(last, "middle_transformer", only_cross_attention=False)(x, context)
    return self._residual(width, "middle_block_1")(x, emb)

  def _up(self, x, skips, emb, context):
    for level, width in reversed(list(enumerate(self.widths))):
      for i in range(self.layers_per_level + 1):
        x = self._residual(width, f"up_{level}_block_{i}")(jnp.concatenate([x, skips.pop()], axis=-1), emb)
        if self.attending[level]:
          x = self._transformer(level, f"up_{level}_transformer_{i}")(x, context)
      if level:
        H, W = skips[-1].shape[1:3]
        doubled = (H, W) == (2 * x.shape[1], 2 * x.shape[2])  # otherwise odd sizes were rounded up on the way down
        conv = Conv(width, upsampled=doubled, dtype=self.dtype, name=f"up_{level}_upsample")
        x = conv(x if doubled else upsample(x)[:, :H, :W])
    return x

  def _residual(self, width, name):
    Module = nn.remat(ResidualBlock) if self.remat else ResidualBlock
    return Module(width, self.num_groups, self.norm_eps, self.dtype, name=name)

  def _transformer(self, level, name, only_cross_attention=None):
    if only_cross_attention is None:
      only_cross_attention = self.only_cross_attention[level]
    Module = nn.remat(SpatialTransformer) if self.remat else SpatialTransformer
    heads = self.num_heads[level]
    return Module(self.depth[level], heads, only_cross_attention, self.num_groups, self.dtype, name=name)

  def _embed(self, c_noise, cond):
    """Time step and the rest of cond -> [B, 4 * width]."""
    features = 4 * self.widths[0]
    emb = cosines_and_sines(c_noise, self.widths[0])
    if self.guidance_dim:
      scale = sinusoidal_embedding(1000 * (cond["guidance"] - 1), self.guidance_dim)
      emb += Dense(self.widths[0], use_bias=False, name="embed_guidance")(scale)
    emb = Embedding(features, self.dtype, name="embed_time")(emb)
    if self.num_labels:
      table = self.param("embed_label", nn.initializers.normal(1.0), (self.num_labels, features), jnp.float32)
      label = jnp.asarray(table).at[cond["label"]]
      emb += label.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False).astype(self.dtype)
    if self.size_dim:
      sizes = cosines_and_sines(cond["sizes"].reshape(-1), self.size_dim).reshape(emb.shape[0], -1)
      pooled = jnp.concatenate([cond["pooled"].astype(jnp.float32), sizes], axis=-1)
      emb += Embedding(features, self.dtype, name="embed_pooled")(pooled)
    return emb

  def _check(self, x, c_noise, cond):
    B, levels = x.shape[0], len(self.widths)
    for field in ("attending", "depth", "num_heads", "only_cross_attention"):
      if len(getattr(self, field)) != levels:
        raise ValueError(f"TextUNet has {levels} widths but {field} {getattr(self, field)}; give one for each level.")
    if x.ndim != 4 or 0 in x.shape:
      raise ValueError(f"TextUNet expects x [B, H, W, C] with no empty axis, got {x.shape}; reshape it.")
    if c_noise is None or jnp.shape(c_noise) not in ((), (B,)):
      given = None if c_noise is None else jnp.shape(c_noise)
      raise ValueError(
        f"TextUNet expects c_noise of shape () or ({B},) for x {x.shape}, got {given}; pass the time step."
      )
    if not isinstance(cond, Mapping):
      raise ValueError(f'TextUNet expects cond {{"context": [B, L, D]}}, got {type(cond).__name__}; pass a dict.')
    needed = {"context"}
    needed |= {"pooled", "sizes"} if self.size_dim else set()
    needed |= {"label"} if self.num_labels else set()
    needed |= {"guidance"} if self.guidance_dim else set()
    wrong = sorted((needed - set(cond)) | (set(cond) - needed - {"concat"}))
    if wrong:
      raise ValueError(
        f"TextUNet got cond with {', '.join(sorted(map(str, cond))) or 'nothing'}, expected"
        f" {', '.join(sorted(needed))} and perhaps concat; correct {wrong[0]!r}."
      )
    for name in cond:
      if jnp.shape(cond[name])[:1] != (B,):
        raise ValueError(f"TextUNet got cond {name} {jnp.shape(cond[name])} for x {x.shape}; give one row per example.")
