"""Published weights and schedulers: safetensors from local folders, one key map per family, and scheduler configs."""

from diffjax.pretrained import hub
from diffjax.pretrained.clip import (
  load_clip,
  load_image_encoder,
  load_text_encoder,
  load_tokenizer_of,
  save_clip,
  save_image_encoder,
)
from diffjax.pretrained.clip.preprocessing import load_preprocessing, save_preprocessing
from diffjax.pretrained.key_maps import unread
from diffjax.pretrained.lora import load_lora, with_lora
from diffjax.pretrained.schedulers import Published, from_diffusers
from diffjax.pretrained.stable_diffusion.pipeline import INDEX as MODEL_INDEX
from diffjax.pretrained.stable_diffusion.pipeline import (
  load_latents,
  load_pipeline,
  load_preview_codec,
  save_latents,
  save_pipeline,
)
from diffjax.pretrained.stable_diffusion.single_file import load_single_file
from diffjax.pretrained.stable_diffusion.text import load_text_tower, save_text_tower
from diffjax.pretrained.stable_diffusion.textual_inversion import load_textual_inversion

__all__ = [
  "MODEL_INDEX",
  "Published",
  "from_diffusers",
  "hub",
  "load_clip",
  "load_image_encoder",
  "load_latents",
  "load_lora",
  "load_pipeline",
  "load_preprocessing",
  "load_preview_codec",
  "load_single_file",
  "load_text_encoder",
  "load_text_tower",
  "load_textual_inversion",
  "load_tokenizer_of",
  "save_clip",
  "save_image_encoder",
  "save_latents",
  "save_pipeline",
  "save_preprocessing",
  "save_text_tower",
  "unread",
  "with_lora",
]
