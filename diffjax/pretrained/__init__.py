"""Published weights and schedulers: safetensors from local folders, one key map per family, and scheduler configs."""

from diffjax.pretrained.clip import load_clip, load_image_encoder, load_text_encoder, save_clip
from diffjax.pretrained.clip.preprocessing import load_preprocessing
from diffjax.pretrained.schedulers import Published, from_diffusers
from diffjax.pretrained.stable_diffusion.pipeline import INDEX as MODEL_INDEX
from diffjax.pretrained.stable_diffusion.pipeline import load_pipeline, save_pipeline
from diffjax.pretrained.stable_diffusion.single_file import load_single_file

__all__ = [
  "MODEL_INDEX",
  "Published",
  "from_diffusers",
  "load_clip",
  "load_image_encoder",
  "load_pipeline",
  "load_preprocessing",
  "load_single_file",
  "load_text_encoder",
  "save_clip",
  "save_pipeline",
]
