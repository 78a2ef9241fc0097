"""CLIP's key maps: Hugging Face's names for CLIP and SigLIP, and OpenCLIP's."""

from collections.abc import Mapping

from diffjax.pretrained.key_maps import from_tables

IGNORED = (".position_ids", "position_ids", "attn_mask")
"""Suffixes of constants that older files store with the parameters."""


def _layers(ours: str, theirs: str, names: Mapping[str, str | tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
  """The modules of a layer with full path and prefix, "{i}" being the layer's number."""
  tuples = {path: (name,) if isinstance(name, str) else name for path, name in names.items()}
  start = f"{ours}/transformer/layer_{{i}}_"
  return {start + path: tuple(f"{theirs}.{{i}}.{name}" for name in group) for path, group in tuples.items()}


_HUGGING_FACE_LAYER = {
  "norm_0": "layer_norm1.",
  "attention/qkv": ("self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."),
  "attention/proj": "self_attn.out_proj.",
  "norm_1": "layer_norm2.",
  "mlp/dense_0": "mlp.fc1.",
  "mlp/dense_1": "mlp.fc2.",
}
_HUGGING_FACE = {
  **_layers("text", "text_model.encoder.layers", _HUGGING_FACE_LAYER),
  **_layers("image", "vision_model.encoder.layers", _HUGGING_FACE_LAYER),
  "text/norm_out": ("text_model.final_layer_norm.",),
  "image/norm_out": ("vision_model.post_layernorm.",),
}
_HUGGING_FACE_ARRAYS = {
  "text/tokens": ("text_model.embeddings.token_embedding.weight", "same"),
  "text/positions": ("text_model.embeddings.position_embedding.weight", "same"),
  "image/positions": ("vision_model.embeddings.position_embedding.weight", "same"),
  "image/patch_kernel": ("vision_model.embeddings.patch_embedding.weight", "convolution"),
}

HUGGING_FACE = from_tables(
  modules={
    **_HUGGING_FACE,
    "text/projection": ("text_projection.",),
    "image/projection": ("visual_projection.",),
    "image/norm_in": ("vision_model.pre_layrnorm.",),  # their spelling
  },
  arrays={
    **_HUGGING_FACE_ARRAYS,
    "image/class_token": ("vision_model.embeddings.class_embedding", "same"),
    "logit_scale": ("logit_scale", "same"),
  },
)

SIGLIP = from_tables(
  modules={
    **_HUGGING_FACE,
    "text/projection": ("text_model.head.",),
    "image/pool/proj": ("vision_model.head.attention.out_proj.",),
    "image/pool/norm": ("vision_model.head.layernorm.",),
    "image/pool/mlp/dense_0": ("vision_model.head.mlp.fc1.",),
    "image/pool/mlp/dense_1": ("vision_model.head.mlp.fc2.",),
  },
  arrays={
    **_HUGGING_FACE_ARRAYS,
    "image/patch_bias": ("vision_model.embeddings.patch_embedding.bias", "same"),
    "image/pool/query": ("vision_model.head.probe", "same"),
    "image/pool/qkv_kernel": ("vision_model.head.attention.in_proj_weight", "linear"),
    "image/pool/qkv_bias": ("vision_model.head.attention.in_proj_bias", "same"),
    "logit_scale": ("logit_scale", "one"),
    "logit_bias": ("logit_bias", "one"),
  },
)

_OPEN_CLIP_LAYER = {
  "norm_0": "ln_1.",
  "attention/qkv": "attn.in_proj_",
  "attention/proj": "attn.out_proj.",
  "norm_1": "ln_2.",
  "mlp/dense_0": "mlp.c_fc.",
  "mlp/dense_1": "mlp.c_proj.",
}
OPEN_CLIP = from_tables(
  modules={
    **_layers("text", "transformer.resblocks", _OPEN_CLIP_LAYER),
    **_layers("image", "visual.transformer.resblocks", _OPEN_CLIP_LAYER),
    "text/norm_out": ("ln_final.",),
    "image/norm_in": ("visual.ln_pre.",),
    "image/norm_out": ("visual.ln_post.",),
  },
  arrays={
    "text/tokens": ("token_embedding.weight", "same"),
    "text/positions": ("positional_embedding", "same"),
    "text/projection/kernel": ("text_projection", "same"),
    "image/patch_kernel": ("visual.conv1.weight", "convolution"),
    "image/class_token": ("visual.class_embedding", "same"),
    "image/positions": ("visual.positional_embedding", "same"),
    "image/projection/kernel": ("visual.proj", "same"),
    "logit_scale": ("logit_scale", "same"),
  },
)

# prefixes of each tower's names, to read one tower from a file with both
HUGGING_FACE_TOWERS = {"text": ("text_model.", "text_projection."), "image": ("vision_model.", "visual_projection.")}
OPEN_CLIP_TOWERS = {
  "text": ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection"),
  "image": ("visual.",),
}
