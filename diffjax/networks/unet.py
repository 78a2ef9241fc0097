"""The U-Net of DDPM, DDPM++ and ADM."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffjax.networks.attention import CrossAttention, SelfAttention
from diffjax.networks.layers import Conv, Dense, FourierEmbedding, GroupNorm, dropout, sinusoidal_embedding
from diffjax.networks.resample import downsample, upsample
from diffjax.randomness import alone
from diffjax.typing import Array, Cond

EMBEDDINGS = ("sinusoidal", "sinusoidal_adm", "fourier")
CONDITIONS = ("label", "augment", "context", "perturb")
RESAMPLINGS = ("convolution", "residual", "residual_projected")


class Block(nn.Module):
  """Residual block, optionally with resampling and self- and cross-attention: [B, H, W, C] -> [B, H', W', features].

  number is the block's index in its network, by which each block draws its own dropout mask from the shared keys.
  """

  features: int
  number: int
  num_heads: int | None
  cross_attention: bool
  resample: str | None
  project: bool
  dropout: float
  scale_shift: bool
  skip_scale: float
  num_groups: int
  norm_eps: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self, x: Array, emb: Array, context: Array | None, key: Array | None, perturb: Array | None = None
  ) -> Array:
    norm = lambda name: GroupNorm(self.num_groups, self.norm_eps, name=name)
    resample = {"up": upsample, "down": downsample, None: lambda x: x}[self.resample]
    h = Conv(self.features, dtype=self.dtype, name="conv_0")(resample(nn.silu(norm("norm_0")(x))))
    emb = Dense(self.features * (2 if self.scale_shift else 1), dtype=self.dtype, name="emb")(emb)
    if self.scale_shift:
      h = norm("norm_1")(h, *jnp.split(emb.astype(jnp.float32), 2, axis=-1))
    else:
      h = norm("norm_1")(h + emb[:, None, None])
    if key is not None:
      key = jax.vmap(alone(jax.random.fold_in), (0, None))(key, self.number)
    h = dropout(nn.silu(h), self.dropout, key)
    h = Conv(self.features, zero_init=True, dtype=self.dtype, name="conv_1")(h)
    x = resample(x)
    if x.shape[-1] != self.features or self.project:
      x = Dense(self.features, dtype=self.dtype, name="shortcut")(x)
    x = (x + h) * self.skip_scale
    if self.num_heads is None:
      return x
    attention: dict[str, Any] = dict(
      num_heads=self.num_heads, num_groups=self.num_groups, norm_eps=self.norm_eps, dtype=self.dtype
    )
    x = SelfAttention(**attention, name="attention")(x, perturb) * self.skip_scale
    if self.cross_attention and context is not None:
      x = CrossAttention(**attention, name="cross_attention")(x, context) * self.skip_scale
    return x


class UNet(nn.Module):
  """U-Net for images: `apply(params, x, c_noise, cond, key=key)` -> float32 [B, H, W, out].

  Covers DDPM (Ho et al. 2020), DDPM++ (Song et al. 2021, as configured by Karras et al. 2022) and ADM (Dhariwal &
  Nichol 2021); `PUBLISHED` has their configurations. Parameters, noise embedding and norm statistics are float32.

  Attributes:
    out_channels: channels of the prediction; learned_variance doubles them, prediction first.
    width: channels at the first level; level i has width * multipliers[i] and half the resolution of the level above.
    blocks_per_level: residual blocks per level on the way down; the way up has one more.
    attention_resolutions: heights of the feature maps at which blocks attend; the middle always does.
    decoder_attention: on the way up, attend after "all" blocks of an attending level, or only after its "last".
    num_heads, head_dim: number of attention heads, or, if head_dim is given, the channels of each.
    scale_shift: the noise embedding scales and shifts the second norm (ADM) instead of being added before it.
    resample: "convolution" (strided, DDPM), "residual" (in residual blocks, ADM) or "residual_projected" (whose
      shortcut is a 1x1 convolution, DDPM++).
    skip_scale: factor after each residual sum, 1 or sqrt(1/2).
    embedding: of c_noise: "sinusoidal" (DDPM's frequencies), "sinusoidal_adm" (ADM's) or "fourier" (random ones).
    num_classes: labels 0..num_classes-1 in cond["label"]; 0 for a network without labels.
    null_label: whether num_classes is also a label, meaning "no label", used if cond has none.
    augment_dim: length of cond["augment"] [B, augment_dim], EDM's augmentation label, zero if cond has none.
    cross_attention: attending blocks also attend to cond["context"] [B, L, D].
    perturbed_blocks: names of the attending blocks, such as "middle_block_0" or "decoder_1_block_0", in which
      self-attention becomes the identity for examples with cond["perturb"].
    num_groups, norm_eps: group norms have at most num_groups groups, with at least four channels in each.
    dtype: of the computation.
    remat: recompute each block in the backward pass instead of keeping its activations.
  """

  out_channels: int = 3
  width: int = 128
  multipliers: Sequence[int] = (1, 2, 2, 2)
  blocks_per_level: int = 2
  attention_resolutions: Sequence[int] = (16,)
  decoder_attention: str = "all"
  num_heads: int = 1
  head_dim: int | None = None
  dropout: float = 0.0
  scale_shift: bool = False
  resample: str = "residual"
  skip_scale: float = 1.0
  embedding: str = "sinusoidal"
  num_classes: int = 0
  null_label: bool = True
  augment_dim: int = 0
  learned_variance: bool = False
  cross_attention: bool = False
  perturbed_blocks: Sequence[str] = ("middle_block_0",)
  num_groups: int = 32
  norm_eps: float = 1e-6
  dtype: jnp.dtype = jnp.float32
  remat: bool = False

  @property
  def largest_c_noise_at_least(self) -> float:
    """The value c_noise must reach for the embedding to tell noise levels apart."""
    return 0.0 if self.embedding == "fourier" else 10.0

  @nn.compact
  def __call__(self, x: Array, c_noise: Array, cond: Cond = None, *, key: Array | None = None) -> Array:
    """Runs the network.

    Args:
      x: [B, H, W, C]; H and W divisible by 2 ** (levels - 1).
      c_noise: [] or [B] float, the noise level in whatever form the model was trained on.
      cond: None or a dict with "label" int32 [B], "augment" [B, augment_dim], "context" [B, L, D], as the fields need,
        and "perturb" bool [B] for perturbed attention. A label outside its range gives NaN.
      key: [B] typed PRNG keys turn dropout on, None turns it off.

    Raises:
      ValueError: if a shape, a field or cond is invalid.
    """
    cond = {} if cond is None else cond
    self._check(x, c_noise, cond, key)
    context = cond["context"].astype(self.dtype) if self.cross_attention else None
    emb = nn.silu(self._embed(jnp.broadcast_to(c_noise, x.shape[:1]), cond)).astype(self.dtype)
    block = self._blocks()
    perturb = lambda name: cond.get("perturb") if name in self.perturbed_blocks else None
    block = lambda x, name, *args, block=block: block(name, *args)(x, emb, context, key, perturb(name))
    return self._trunk(x.astype(self.dtype), block)

  def _trunk(self, x, block):
    last, levels = len(self.multipliers) - 1, list(enumerate(self.multipliers))
    x = Conv(self.width, dtype=self.dtype, name="conv_in")(x)
    skips = [x]
    for level, multiplier in levels:
      attend = x.shape[1] in self.attention_resolutions
      for i in range(self.blocks_per_level):
        x = block(x, f"encoder_{level}_block_{i}", self.width * multiplier, attend)
        skips.append(x)
      if level != last:
        x = self._resample(x, f"encoder_{level}_downsample", "down", block)
        skips.append(x)
    x = block(x, "middle_block_0", x.shape[-1], True)
    x = block(x, "middle_block_1", x.shape[-1], False)
    for level, multiplier in reversed(levels):
      attend = x.shape[1] in self.attention_resolutions
      for i in range(self.blocks_per_level + 1):
        here = attend and (self.decoder_attention == "all" or i == self.blocks_per_level)
        x = jnp.concatenate([x, skips.pop()], axis=-1)
        x = block(x, f"decoder_{level}_block_{i}", self.width * multiplier, here)
      if level:
        x = self._resample(x, f"decoder_{level}_upsample", "up", block)
    x = nn.silu(GroupNorm(self.num_groups, self.norm_eps, name="norm_out")(x))
    out_channels = self.out_channels * (2 if self.learned_variance else 1)
    return Conv(out_channels, zero_init=True, dtype=self.dtype, name="conv_out")(x).astype(jnp.float32)

  def _blocks(self):
    """A function that makes blocks, numbered in order of creation."""
    Module = nn.remat(Block) if self.remat else Block
    number = iter(range(1000))

    def make(name, features, attend, resample=None):
      return Module(
        features=features,
        number=next(number),
        num_heads=self._heads(features) if attend else None,
        cross_attention=self.cross_attention,
        resample=resample,
        project=resample is not None and self.resample == "residual_projected",
        dropout=self.dropout,
        scale_shift=self.scale_shift,
        skip_scale=self.skip_scale,
        num_groups=self.num_groups,
        norm_eps=self.norm_eps,
        dtype=self.dtype,
        name=name,
      )

    return make

  def _resample(self, x, name, direction, block):
    if self.resample != "convolution":
      return block(x, name, x.shape[-1], False, direction)
    if direction == "down":
      return Conv(x.shape[-1], stride=2, dtype=self.dtype, name=name)(x)
    return Conv(x.shape[-1], upsampled=True, dtype=self.dtype, name=name)(x)

  def _embed(self, c_noise, cond):
    """c_noise [B] and labels -> float32 [B, 4 * width]."""
    if self.embedding == "fourier":
      emb = FourierEmbedding(self.width, name="fourier")(c_noise)
    else:
      emb = sinusoidal_embedding(c_noise, self.width, endpoint=self.embedding == "sinusoidal")
    if self.augment_dim:
      augment = cond.get("augment", jnp.zeros((emb.shape[0], self.augment_dim)))
      emb += Dense(self.width, use_bias=False, name="embed_augment")(augment)
    emb = Dense(4 * self.width, name="embed_0")(emb)
    emb = Dense(4 * self.width, name="embed_1")(nn.silu(emb))
    if not self.num_classes:
      return emb
    rows = self.num_classes + self.null_label
    table = self.param("embed_label", nn.initializers.normal(1.0), (rows, 4 * self.width), jnp.float32)
    label = cond.get("label", jnp.full(emb.shape[:1], self.num_classes))
    return emb + jnp.asarray(table).at[label].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

  def _heads(self, features):
    heads = self.num_heads if self.head_dim is None else features // self.head_dim
    if not heads or features % heads or self.head_dim not in (None, features // heads):
      raise ValueError(
        f"{features} channels do not split into heads with num_heads={self.num_heads}, head_dim={self.head_dim}; "
        "choose one that divides width times the multiplier of every attending level and of the last."
      )
    return heads

  def _check(self, x, c_noise, cond, key):
    for field, names in dict(embedding=EMBEDDINGS, resample=RESAMPLINGS, decoder_attention=("all", "last")).items():
      if getattr(self, field) not in names:
        raise ValueError(f"UNet has no {field} {getattr(self, field)!r}; choose one of {', '.join(names)}.")
    step = 2 ** (len(self.multipliers) - 1)
    if x.ndim != 4 or x.shape[1] % step or x.shape[2] % step or 0 in x.shape:
      raise ValueError(
        f"UNet expects x [B, H, W, C] with no empty axis, and H and W divisible by {step}, got {x.shape}; "
        "pad the images or use fewer levels."
      )
    B = x.shape[0]
    if c_noise is None or jnp.shape(c_noise) not in ((), (B,)):
      given = None if c_noise is None else jnp.shape(c_noise)
      raise ValueError(
        f"UNet expects c_noise of shape () or ({B},) for x {x.shape}, got {given}; pass one level, or one per example."
      )
    if key is not None and key.shape != (B,):
      raise ValueError(f"UNet expects one dropout key per example, ({B},), got {key.shape}; use jax.random.split.")
    if not isinstance(cond, Mapping):
      raise ValueError(
        f'UNet expects cond to be None or a dict, got {type(cond).__name__}; pass {{"label": int32 [B]}}, for example.'
      )
    for name in cond:
      if name not in CONDITIONS:
        near = difflib.get_close_matches(str(name), CONDITIONS, n=1, cutoff=0)[0]
        raise ValueError(f"UNet has no cond {name!r} (did you mean {near!r}?); choose from {', '.join(CONDITIONS)}.")
    if "label" in cond and not self.num_classes:
      raise ValueError("this UNet has no labels; remove label from cond or set num_classes.")
    if "label" in cond and jnp.shape(cond["label"]) != (B,):
      raise ValueError(
        f"UNet expects cond label of shape ({B},) for x {x.shape}, got {jnp.shape(cond['label'])}; pass one per"
        " example."
      )
    if "label" in cond and not jnp.issubdtype(jnp.result_type(cond["label"]), jnp.integer):
      raise ValueError(f"UNet expects whole numbers as cond label, got {jnp.result_type(cond['label'])}; convert them.")
    if "perturb" in cond and jnp.shape(cond["perturb"]) != (B,):
      raise ValueError(
        f"UNet expects cond perturb of shape ({B},) for x {x.shape}, got {jnp.shape(cond['perturb'])}; pass one per"
        " example."
      )
    if self.num_classes and not self.null_label and "label" not in cond:
      raise ValueError('this UNet has no null label; pass cond={"label": int32 [B]}.')
    if self.cross_attention and "context" not in cond:
      raise ValueError('this UNet attends to a context; pass cond={"context": float [B, L, D]}.')
