"""The DDPM U-Net as diffusers builds it, and the key map from its weights to ours."""

import jax.numpy as jnp

RESNET = {"norm1": "norm_0", "conv1": "conv_0", "time_emb_proj": "emb", "norm2": "norm_1", "conv2": "conv_1"}


def reference(channels, *, width, multipliers, blocks_per_level, attention_resolutions, size, num_groups=32):
  """diffusers' UNet2DModel in the configuration of google/ddpm-cifar10-32, scaled to these arguments."""
  from diffusers import UNet2DModel

  attends = [size >> level in attention_resolutions for level in range(len(multipliers))]
  return UNet2DModel(
    sample_size=size,
    in_channels=channels,
    out_channels=channels,
    block_out_channels=[width * m for m in multipliers],
    layers_per_block=blocks_per_level,
    down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
    up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
    attention_head_dim=None,
    downsample_padding=0,
    flip_sin_to_cos=False,
    freq_shift=1,
    norm_eps=1e-6,
    norm_num_groups=num_groups,
  )


def convert(state_dict, levels):
  """diffusers' state dict -> {"params": ...} of diffjax's UNet with resample="convolution"."""
  tree = {}
  for key, value in state_dict.items():
    _assign(tree, _path(key.split("."), levels), jnp.asarray(value.detach().cpu().numpy()))
  for block in tree.values():
    if "attention" in block:
      parts = [block["attention"].pop(name) for name in ("to_q", "to_k", "to_v")]
      block["attention"]["qkv"] = {name: jnp.concatenate([p[name] for p in parts], -1) for name in ("kernel", "bias")}
  return {"params": tree}


def _path(key, levels):
  *module, leaf = key
  match module:
    case ["time_embedding", linear]:
      path = [{"linear_1": "embed_0", "linear_2": "embed_1"}[linear]]
    case ["conv_norm_out"]:
      path = ["norm_out"]
    case [("conv_in" | "conv_out") as name]:
      path = [name]
    case ["mid_block", "resnets", i, name]:
      path = [f"middle_block_{i}", RESNET[name]]
    case ["mid_block", "attentions", "0", *rest]:
      path = ["middle_block_0", "attention", _attention(rest)]
    case ["down_blocks", level, "downsamplers", "0", "conv"]:
      path = [f"encoder_{level}_downsample"]
    case ["up_blocks", depth, "upsamplers", "0", "conv"]:
      path = [f"decoder_{levels - 1 - int(depth)}_upsample"]
    case ["down_blocks", level, kind, i, *rest]:
      path = [f"encoder_{level}_block_{i}", *_part(kind, rest)]
    case ["up_blocks", depth, kind, i, *rest]:
      path = [f"decoder_{levels - 1 - int(depth)}_block_{i}", *_part(kind, rest)]
    case _:
      raise KeyError(".".join(key))
  return (*path, leaf)


def _part(kind, rest):
  if kind == "attentions":
    return "attention", _attention(rest)
  return ("shortcut" if rest == ["conv_shortcut"] else RESNET[rest[0]],)


def _attention(rest):
  return {"group_norm": "norm", "to_out": "proj"}.get(rest[0], rest[0])


def _assign(tree, path, value):
  *parents, leaf = path
  for name in parents:
    tree = tree.setdefault(name, {})
  is_norm = "norm" in parents[-1]
  if leaf == "weight" and not is_norm:
    if parents[-1] == "shortcut":
      value = value[:, :, 0, 0]
    value = value.transpose(*range(2, value.ndim), 1, 0)
  tree[{"weight": "scale" if is_norm else "kernel"}.get(leaf, leaf)] = value
