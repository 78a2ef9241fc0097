"""Published CLIP configurations by name: `CLIP(**PUBLISHED_CLIP["vit_b_32"])`."""

import math
from typing import Any

from diffjax.networks.clip import ImageEncoder, TextEncoder


def _clip(image_size, patch, image, text, features, activation="quick_gelu", **more):
  """Towers of (width, layers, heads) each."""
  shared: dict[str, Any] = dict(features=features, activation=activation)
  names = ("width", "layers", "heads")
  return dict(
    image=ImageEncoder(image_size=image_size, patch=patch, **dict(zip(names, image)), **shared, **more),
    text=TextEncoder(vocab_size=49408, **dict(zip(names, text)), **shared),
  )


def _siglip(image_size, patch, width, layers, heads, mlp_width, context, vocab_size=32000):
  shared: dict[str, Any] = dict(
    width=width, layers=layers, heads=heads, mlp_width=mlp_width, activation="gelu_tanh", norm_eps=1e-6
  )
  text: dict[str, Any] = dict(pooling="last", causal=False, projection_bias=True)
  return dict(
    image=ImageEncoder(image_size=image_size, patch=patch, pooling="attention", **shared),
    text=TextEncoder(vocab_size=vocab_size, context=context, features=width, **text, **shared),
    log_scale=math.log(10),
    bias=-10.0,
  )


PUBLISHED_CLIP = {
  # Radford et al. 2021, the vision transformers.
  "vit_b_32": _clip(224, 32, (768, 12, 12), (512, 12, 8), 512),
  "vit_b_16": _clip(224, 16, (768, 12, 12), (512, 12, 8), 512),
  "vit_l_14": _clip(224, 14, (1024, 24, 16), (768, 12, 12), 768),
  "vit_l_14_336": _clip(336, 14, (1024, 24, 16), (768, 12, 12), 768),
  # OpenCLIP: Cherti et al. 2023; bigG as released after it.
  "openclip_vit_b_32": _clip(224, 32, (768, 12, 12), (512, 12, 8), 512, "gelu"),
  "openclip_vit_b_16": _clip(224, 16, (768, 12, 12), (512, 12, 8), 512, "gelu"),
  "openclip_vit_l_14": _clip(224, 14, (1024, 24, 16), (768, 12, 12), 768, "gelu"),
  "openclip_vit_h_14": _clip(224, 14, (1280, 32, 16), (1024, 24, 16), 1024, "gelu"),
  "openclip_vit_bigg_14": _clip(224, 14, (1664, 48, 16), (1280, 32, 20), 1280, "gelu", mlp_width=8192),
  # Zhai et al. 2023.
  "siglip_base_16_224": _siglip(224, 16, 768, 12, 12, 3072, 64),
  "siglip_large_16_256": _siglip(256, 16, 1024, 24, 16, 4096, 64),
  "siglip_so400m_14_384": _siglip(384, 14, 1152, 27, 16, 4304, 64),
}
