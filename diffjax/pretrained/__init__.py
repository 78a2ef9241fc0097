"""Published weights from local folders: safetensors only, one key map per family, checked before anything runs."""

from diffjax.pretrained.clip import load_clip, load_image_encoder, load_text_encoder, save_clip
from diffjax.pretrained.clip.preprocessing import load_preprocessing
from diffjax.pretrained.schedulers import Published, from_diffusers

__all__ = [
  "Published",
  "from_diffusers",
  "load_clip",
  "load_image_encoder",
  "load_preprocessing",
  "load_text_encoder",
  "save_clip",
]
