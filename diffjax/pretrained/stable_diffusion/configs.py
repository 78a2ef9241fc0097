"""Diffusers' configurations of U-Net and autoencoder as our modules, and our modules as their configurations."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from diffjax.networks import AutoencoderKL, TextUNet, TinyAutoencoder
from diffjax.system.files import shown

Config = Mapping[str, Any]

MAX_LEVELS, MAX_LAYERS, MAX_NUMBER = 8, 64, 2**17
"""Upper limits, so that a hostile configuration cannot exhaust the machine."""
ATTENDING = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
UP_BLOCKS = {"CrossAttnDownBlock2D": "CrossAttnUpBlock2D", "DownBlock2D": "UpBlock2D"}
UNET_DEFAULTS: dict[str, Any] = dict(
  in_channels=4, out_channels=4, down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
  up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, block_out_channels=[320, 640, 1280, 1280],
  layers_per_block=2, only_cross_attention=False, norm_num_groups=32, norm_eps=1e-5, cross_attention_dim=1280,
  transformer_layers_per_block=1, attention_head_dim=8, use_linear_projection=False, addition_embed_type=None,
  addition_time_embed_dim=None, projection_class_embeddings_input_dim=None, num_class_embeds=None,
  time_cond_proj_dim=None,
)  # fmt: skip
"""Keys that we read, with the values they have where a file omits them."""
UNET_FIXED: dict[str, tuple[Any, ...]] = dict(
  center_input_sample=(False,), flip_sin_to_cos=(True,), freq_shift=(0,), mid_block_scale_factor=(1,),
  mid_block_type=("UNetMidBlock2DCrossAttn",), downsample_padding=(1,), dropout=(0.0,), act_fn=("silu", "swish"),
  num_attention_heads=(None,), dual_cross_attention=(False,), encoder_hid_dim=(None,), encoder_hid_dim_type=(None,),
  class_embed_type=(None,), resnet_time_scale_shift=("default",), resnet_skip_time_act=(False,),
  resnet_out_scale_factor=(1.0,), time_embedding_type=("positional",), time_embedding_dim=(None,),
  time_embedding_act_fn=(None,), timestep_post_act=(None,), conv_in_kernel=(3,), conv_out_kernel=(3,),
  attention_type=("default",), class_embeddings_concat=(False,), mid_block_only_cross_attention=(None, False),
  cross_attention_norm=(None,), reverse_transformer_layers_per_block=(None,),
)  # fmt: skip
"""Keys whose other values belong to architectures that we do not have."""
UNET_IGNORED = ("sample_size", "upcast_attention", "addition_embed_type_num_heads")
"""Keys without effect here: any size is allowed, and softmax is always in float32."""
VAE_DEFAULTS: dict[str, Any] = dict(
  in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"], up_block_types=["UpDecoderBlock2D"],
  block_out_channels=[64], layers_per_block=1, latent_channels=4, norm_num_groups=32, scaling_factor=0.18215,
  shift_factor=None, latents_mean=None, latents_std=None, force_upcast=True, use_quant_conv=True,
  use_post_quant_conv=True, mid_block_add_attention=True,
)  # fmt: skip
VAE_FIXED: dict[str, tuple[Any, ...]] = dict(act_fn=("silu", "swish"))
VAE_IGNORED = ("sample_size",)
TINY_DEFAULTS: dict[str, Any] = dict(
  in_channels=3, out_channels=3, encoder_block_out_channels=[64] * 4, decoder_block_out_channels=[64] * 4,
  latent_channels=4, num_encoder_blocks=[1, 3, 3, 3], num_decoder_blocks=[3, 3, 3, 1], scaling_factor=1.0,
  shift_factor=0.0,
)  # fmt: skip
TINY_FIXED: dict[str, tuple[Any, ...]] = dict(
  act_fn=("relu",), upsample_fn=("nearest",), upsampling_scaling_factor=(2,), latent_magnitude=(3,), latent_shift=(0.5,)
)
TINY_IGNORED = ("force_upcast", "block_out_channels")


@dataclasses.dataclass(frozen=True)
class LatentSpace:
  """How an autoencoder's latents z relate to x0: x0 = (z - shift) * scale, each a number or one for each channel.

  Attributes:
    scale, shift: as above.
    upcast: whether the autoencoder must run in float32, or bfloat16, as float16 overflows in it.
  """

  scale: float | tuple[float, ...]
  shift: float | tuple[float, ...]
  upcast: bool


def unet(given: Config, dtype: jnp.dtype) -> tuple[TextUNet, int, int]:
  """(U-Net, its input channels, the width of its context) of a `UNet2DConditionModel`'s configuration.

  Raises:
    ValueError: an unknown key, a value out of range, or an architecture that is not one of Stable Diffusion's.
  """
  config = _read("the U-Net's configuration", given, UNET_DEFAULTS, UNET_FIXED, UNET_IGNORED)
  widths = _widths(config, "down_block_types", "up_block_types")
  down, up = config["down_block_types"], config["up_block_types"]
  for kind in down:
    _one_of("down_block_types", kind, ATTENDING)
  if list(up) != [UP_BLOCKS[kind] for kind in reversed(down)]:
    raise ValueError(f"up_block_types is {shown(up)}, but must mirror down_block_types; use another model.")
  levels = len(widths)
  each = lambda key, most: tuple(_whole(key, value, most) for value in _per_level(config, key, levels))
  adds = config["addition_embed_type"]
  _one_of("addition_embed_type", adds, (None, "text_time"))
  network = TextUNet(
    out_channels=_whole("out_channels", config["out_channels"], MAX_NUMBER),
    widths=widths,
    layers_per_level=_whole("layers_per_block", _same(config, "layers_per_block"), MAX_LAYERS),
    attending=tuple(ATTENDING[kind] for kind in down),
    depth=each("transformer_layers_per_block", MAX_LAYERS),
    num_heads=each("attention_head_dim", MAX_NUMBER),  # their name for the number of heads
    only_cross_attention=tuple(map(bool, _per_level(config, "only_cross_attention", levels))),
    size_dim=_whole("addition_time_embed_dim", config["addition_time_embed_dim"], MAX_NUMBER) if adds else 0,
    num_labels=_whole("num_class_embeds", config["num_class_embeds"] or 0, MAX_NUMBER, 0),
    guidance_dim=_whole("time_cond_proj_dim", config["time_cond_proj_dim"] or 0, MAX_NUMBER, 0),
    num_groups=_whole("norm_num_groups", config["norm_num_groups"], MAX_NUMBER),
    norm_eps=_positive("norm_eps", config["norm_eps"]),
    dtype=dtype,
  )
  for width, heads in zip(widths, network.num_heads):
    if width % heads or width % network.num_groups:
      raise ValueError(
        f"{width} channels do not split into {heads} heads and {network.num_groups} groups; the configuration is"
        " damaged, download it again."
      )
  channels = _whole("in_channels", config["in_channels"], MAX_NUMBER)
  return network, channels, _whole("cross_attention_dim", _same(config, "cross_attention_dim"), MAX_NUMBER)


def from_unet(
  network: TextUNet, channels: int, context: int, pooled: int, linear_projection: bool, side: int | None
) -> dict[str, Any]:
  """Diffusers' configuration of a U-Net.

  Args:
    network: the architecture.
    channels: of its input.
    context: width of the text's hidden states.
    pooled: width of the embedded pooled text and sizes together; unused without `size_dim`.
    linear_projection: as in `keys.unet`.
    side: of the latents that it draws by default.
  """
  down = ["CrossAttnDownBlock2D" if attending else "DownBlock2D" for attending in network.attending]
  adds = dict(
    addition_embed_type="text_time",
    addition_time_embed_dim=network.size_dim,
    projection_class_embeddings_input_dim=pooled,
  )
  return dict(
    _class_name="UNet2DConditionModel",
    sample_size=side,
    in_channels=channels,
    out_channels=network.out_channels,
    down_block_types=down,
    up_block_types=[UP_BLOCKS[kind] for kind in reversed(down)],
    block_out_channels=list(network.widths),
    layers_per_block=network.layers_per_level,
    only_cross_attention=list(network.only_cross_attention),
    norm_num_groups=network.num_groups,
    norm_eps=network.norm_eps,
    cross_attention_dim=context,
    transformer_layers_per_block=list(network.depth),
    attention_head_dim=list(network.num_heads),
    use_linear_projection=linear_projection,
    num_class_embeds=network.num_labels or None,
    time_cond_proj_dim=network.guidance_dim or None,
    **(adds if network.size_dim else {}),
  )


def autoencoder(given: Config, dtype: jnp.dtype) -> tuple[AutoencoderKL, LatentSpace]:
  """The autoencoder of an `AutoencoderKL`'s configuration; errors as `unet`."""
  config = _read("the autoencoder's configuration", given, VAE_DEFAULTS, VAE_FIXED, VAE_IGNORED)
  for key, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
    for found in _list(config, key):
      _one_of(key, found, (kind,))
  if config["in_channels"] != config["out_channels"]:
    raise ValueError(
      f"the autoencoder maps {shown(config['in_channels'])} to {shown(config['out_channels'])} channels; use one with"
      " as many on both sides."
    )
  network = AutoencoderKL(
    channels=_whole("in_channels", config["in_channels"], MAX_NUMBER),
    latent_channels=_whole("latent_channels", config["latent_channels"], MAX_NUMBER),
    widths=_widths(config, "down_block_types", "up_block_types"),
    layers_per_level=_whole("layers_per_block", config["layers_per_block"], MAX_LAYERS),
    middle_attention=bool(config["mid_block_add_attention"]),
    quant_conv=bool(config["use_quant_conv"]),
    post_quant_conv=bool(config["use_post_quant_conv"]),
    num_groups=_whole("norm_num_groups", config["norm_num_groups"], MAX_NUMBER),
    dtype=dtype,
  )
  return network, _latents(config, network.latent_channels)


def _latents(config, channels):
  scale, shift = _positive("scaling_factor", config["scaling_factor"]), config["shift_factor"] or 0.0
  mean, std = config["latents_mean"], config["latents_std"]
  if mean is None and std is None:
    return LatentSpace(scale, _number("shift_factor", shift), bool(config["force_upcast"]))
  each = lambda key, number: tuple(number(key, value) for value in _per_level(config, key, channels))
  scales = tuple(scale / value for value in each("latents_std", _positive))
  return LatentSpace(scales, each("latents_mean", _number), bool(config["force_upcast"]))


def from_autoencoder(network: AutoencoderKL, latents: LatentSpace) -> dict[str, Any]:
  """Diffusers' configuration of an autoencoder."""
  levels = len(network.widths)
  numbers: dict[str, Any] = dict(scaling_factor=latents.scale, shift_factor=latents.shift or None)
  if isinstance(latents.scale, tuple):
    numbers = dict(scaling_factor=1.0, latents_mean=latents.shift, latents_std=[1 / scale for scale in latents.scale])
  return dict(
    _class_name="AutoencoderKL",
    in_channels=network.channels,
    out_channels=network.channels,
    down_block_types=["DownEncoderBlock2D"] * levels,
    up_block_types=["UpDecoderBlock2D"] * levels,
    block_out_channels=list(network.widths),
    layers_per_block=network.layers_per_level,
    latent_channels=network.latent_channels,
    norm_num_groups=network.num_groups,
    force_upcast=latents.upcast,
    use_quant_conv=network.quant_conv,
    use_post_quant_conv=network.post_quant_conv,
    mid_block_add_attention=network.middle_attention,
    **numbers,
  )


def tiny_autoencoder(given: Config, dtype: jnp.dtype) -> TinyAutoencoder:
  """The autoencoder of an `AutoencoderTiny`'s configuration; errors as `unet`."""
  config = _read("the autoencoder's configuration", given, TINY_DEFAULTS, TINY_FIXED, TINY_IGNORED)
  widths = {*_list(config, "encoder_block_out_channels"), *_list(config, "decoder_block_out_channels")}
  if len(widths) != 1:
    raise ValueError(f"the autoencoder's levels have {shown(sorted(widths))} channels; use one with a single width.")
  each = lambda key: tuple(_whole(key, value, MAX_LAYERS, 0) for value in _list(config, key))
  return TinyAutoencoder(
    channels=_whole("in_channels", config["in_channels"], MAX_NUMBER),
    latent_channels=_whole("latent_channels", config["latent_channels"], MAX_NUMBER),
    width=_whole("encoder_block_out_channels", widths.pop(), MAX_NUMBER),
    blocks=each("num_encoder_blocks"),
    decoder_blocks=each("num_decoder_blocks"),
    dtype=dtype,
  )


def _read(whose, given, defaults, fixed, ignored) -> dict[str, Any]:
  """The keys that we read, with their defaults; ValueError for unknown keys and values that we do not have."""
  for key, value in given.items():
    if key in fixed and value not in fixed[key]:
      allowed = " or ".join(map(repr, fixed[key]))
      raise ValueError(f"{whose} has {key} {shown(value)}, but can only have {allowed} here; use another model.")
    if not (key.startswith("_") or key in defaults or key in fixed or key in ignored) and value is not None:
      raise ValueError(f"{whose} has an unknown key {shown(key)}; use a configuration of this architecture.")
  return {key: given.get(key, default) for key, default in defaults.items()}


def _list(config, key) -> list[Any]:
  value = config[key]
  if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_LEVELS:
    raise ValueError(f"{key} is {shown(value)}, but must be a list of 1 to {MAX_LEVELS}; correct the configuration.")
  return list(value)


def _widths(config, *blocks) -> tuple[int, ...]:
  widths = tuple(_whole("block_out_channels", width, MAX_NUMBER) for width in _list(config, "block_out_channels"))
  for key in blocks:
    if len(_list(config, key)) != len(widths):
      raise ValueError(f"{key} has {len(config[key])} entries for {len(widths)} levels; correct the configuration.")
  return widths


def _per_level(config, key, count) -> list[Any]:
  """A value for each of `count` levels or channels, from one for all or a list."""
  value = config[key]
  values = list(value) if isinstance(value, list | tuple) else [value] * count
  if len(values) != count:
    raise ValueError(f"{key} has {len(values)} entries, expected {count}; correct the configuration.")
  return values


def _same(config, key) -> Any:
  """A value that is the same for all levels."""
  value = config[key]
  if isinstance(value, list | tuple) and value and all(each == value[0] for each in value):
    return value[0]
  return value


def _whole(key, value, most, least=1) -> int:
  if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
    raise ValueError(f"{key} is {shown(value)}, but must be a whole number in {least}..{most}; correct it.")
  return value


def _number(key, value) -> float:
  if not isinstance(value, int | float) or isinstance(value, bool):
    raise ValueError(f"{key} is {shown(value)}, but must be a number; correct the configuration.")
  return float(value)


def _positive(key, value) -> float:
  if not _number(key, value) > 0:
    raise ValueError(f"{key} is {shown(value)}, but must be above 0; correct the configuration.")
  return float(value)


def _one_of(key, value, allowed) -> None:
  if value not in allowed:
    raise ValueError(f"{key} is {shown(value)}, but can only be {' or '.join(map(repr, allowed))}; use another model.")
