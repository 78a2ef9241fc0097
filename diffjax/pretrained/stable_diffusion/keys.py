"""Key maps of Stable Diffusion's networks: the names in Hugging Face's folders, and those of the original release."""

import re

from diffjax.networks import AutoencoderKL, TextUNet, TinyAutoencoder
from diffjax.pretrained.key_maps import KeyMap, from_rules

_next = lambda prefix: lambda found: f"{prefix}{int(found[1]) + 1}"
_TRANSFORMER = [
  (r"/block_(\d+)", r".transformer_blocks.\1"),
  (r"/attention_(\d)", _next(".attn")),
  (r"/mlp/dense_0$", ".ff.net.0.proj"),
  (r"/mlp/dense_1$", ".ff.net.2"),
]
_ATTENTION = [(r"/([qkv])$", r".to_\1"), (r"/proj$", ".to_out.0")]
_RESIDUAL = [
  (r"/norm_(\d)$", _next(".norm")),
  (r"/conv_(\d)$", _next(".conv")),
  (r"/emb$", ".time_emb_proj"),
  (r"/shortcut$", ".conv_shortcut"),
]
POINTWISE = re.compile(r"shortcut$|quant$|transformer_?\d*/proj_(in|out)$")
"""Our dense layers that they store as 1x1 convolutions."""
CONVOLUTION = re.compile(r"(^|/)conv_(\d|in|out)$|(down|up)sample$")


def _layout(linear_projection):
  def layout(module):
    if CONVOLUTION.search(module):
      return "convolution"
    if POINTWISE.search(module) and not (linear_projection and "/proj_" in module):
      return "pointwise"
    return "linear"

  return layout


def unet(network: TextUNet, *, linear_projection: bool) -> KeyMap:
  """Diffusers' names for the U-Net.

  Args:
    network: the architecture.
    linear_projection: whether the transformers' projections are stored as matrices, not as 1x1 convolutions.
  """
  up = lambda found: f"up_blocks.{len(network.widths) - 1 - int(found[1])}."
  rules = [
    (r"^embed_time/dense_(\d)", _next("time_embedding.linear_")),
    (r"^embed_pooled/dense_(\d)", _next("add_embedding.linear_")),
    (r"^embed_guidance", "time_embedding.cond_proj"),
    (r"^embed_label", "class_embedding"),
    (r"^norm_out", "conv_norm_out"),
    (r"^down_(\d+)_", r"down_blocks.\1."),
    (r"^up_(\d+)_", up),
    (r"^middle_transformer", "mid_block.attentions.0"),
    (r"^middle_", "mid_block."),
    (r"(_blocks\.\d+|mid_block)\.block_(\d+)", r"\1.resnets.\2"),
    (r"\.transformer_(\d+)", r".attentions.\1"),
    (r"\.(downsample|upsample)$", r".\1rs.0.conv"),
    *_TRANSFORMER,
    *_ATTENTION,
    *_RESIDUAL,
    (r"/", "."),
  ]
  return from_rules(rules, _layout(linear_projection))


def original_unet(network: TextUNet, *, linear_projection: bool) -> KeyMap:
  """The original release's names for the U-Net; arguments as for `unet`."""
  levels, layers = len(network.widths), network.layers_per_level
  level_of = lambda found: int(found[1])

  def down(found):
    return f"input_blocks.{1 + level_of(found) * (layers + 1) + int(found[2])}"

  def up(found):
    return f"output_blocks.{(levels - 1 - level_of(found)) * (layers + 1) + int(found[2])}"

  def upsample(found):
    last = (levels - level_of(found)) * (layers + 1) - 1
    return f"output_blocks.{last}.{2 if network.attending[level_of(found)] else 1}.conv"

  rules = [
    (r"^embed_time/dense_(\d)", lambda found: f"time_embed.{2 * int(found[1])}"),
    (r"^embed_pooled/dense_(\d)", lambda found: f"label_emb.0.{2 * int(found[1])}"),
    (r"^embed_guidance", "time_embed.cond_proj"),
    (r"^embed_label", "label_emb"),
    (r"^conv_in", "input_blocks.0.0"),
    (r"^norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    (r"^middle_block_(\d)", lambda found: f"middle_block.{2 * int(found[1])}"),
    (r"^middle_transformer", "middle_block.1"),
    (r"^down_(\d+)_block_(\d+)", lambda found: f"{down(found)}.0"),
    (r"^down_(\d+)_transformer_(\d+)", lambda found: f"{down(found)}.1"),
    (r"^down_(\d+)_downsample", lambda found: f"input_blocks.{(level_of(found) + 1) * (layers + 1)}.0.op"),
    (r"^up_(\d+)_block_(\d+)", lambda found: f"{up(found)}.0"),
    (r"^up_(\d+)_transformer_(\d+)", lambda found: f"{up(found)}.1"),
    (r"^up_(\d+)_upsample", upsample),
    *_TRANSFORMER,
    *_ATTENTION,
    (r"(attn\d|_blocks\.\d+)/norm_(\d)", lambda found: f"{found[1]}.norm{int(found[2]) + 1}"),
    (r"/norm_0$", ".in_layers.0"),
    (r"/conv_0$", ".in_layers.2"),
    (r"/emb$", ".emb_layers.1"),
    (r"/norm_1$", ".out_layers.0"),
    (r"/conv_1$", ".out_layers.3"),
    (r"/shortcut$", ".skip_connection"),
    (r"/", "."),
  ]
  return from_rules(rules, _layout(linear_projection))


def autoencoder(network: AutoencoderKL) -> KeyMap:
  """Diffusers' names for the autoencoder."""
  rules = [
    (r"^(post_)?quant$", r"\1quant_conv"),
    (r"/norm_out$", ".conv_norm_out"),
    (r"/down_(\d+)_", r".down_blocks.\1."),
    (r"/up_(\d+)_", lambda found: f".up_blocks.{len(network.widths) - 1 - int(found[1])}."),
    (r"/middle_attention/norm$", ".mid_block.attentions.0.group_norm"),
    (r"/middle_attention/attention", ".mid_block.attentions.0"),
    (r"/middle_", ".mid_block."),
    (r"(_blocks\.\d+|mid_block)\.block_(\d+)", r"\1.resnets.\2"),
    (r"\.(downsample|upsample)$", r".\1rs.0.conv"),
    *_ATTENTION,
    *_RESIDUAL,
    (r"/", "."),
  ]
  return from_rules(rules, _layout(linear_projection=True))


ORIGINAL_AUTOENCODER = from_rules(
  [
    (r"^(post_)?quant$", r"\1quant_conv"),
    (r"/(down|up)_(\d+)_block_", r".\1.\2.block."),
    (r"/(down|up)_(\d+)_(downsample|upsample)", r".\1.\2.\3.conv"),
    (r"/middle_attention/norm$", ".mid.attn_1.norm"),
    (r"/middle_attention/attention/([qkv])$", r".mid.attn_1.\1"),
    (r"/middle_attention/attention/proj$", ".mid.attn_1.proj_out"),
    (r"/middle_block_(\d)", _next(".mid.block_")),
    (r"/shortcut$", ".nin_shortcut"),
    *_RESIDUAL,
    (r"/", "."),
  ],
  _layout(linear_projection=True),
)
"""The original release's names for the autoencoder."""
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""What folders written by early versions of diffusers call the projections of the autoencoder's attention."""


def tiny_autoencoder(network: TinyAutoencoder) -> KeyMap:
  """Diffusers' names for TAESD, which are the numbers of its layers; those without parameters are None here."""
  blocks = lambda level, count: [f"level_{level}_block_{i}" for i in range(count)]
  encoder, decoder = ["conv_in"], ["conv_in", None]
  for level, count in enumerate(network.blocks):
    encoder += [f"level_{level}_downsample"] * (level > 0) + blocks(level, count)
  for level, count in enumerate(network.decoder_blocks):
    decoder += blocks(level, count) + [None, f"level_{level}_upsample"] * (level < len(network.decoder_blocks) - 1)
  layers = {"encoder": [*encoder, "conv_out"], "decoder": [*decoder, "conv_out"]}
  rules = [
    (r"^(encoder|decoder)/(\w+)", lambda found: f"{found[1]}.layers.{layers[found[1]].index(found[2])}"),
    (r"/conv_(\d)$", lambda found: f".conv.{2 * int(found[1])}"),
  ]
  return from_rules(rules, _layout(linear_projection=True))
