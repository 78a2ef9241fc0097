"""Published weights from local folders: safetensors only, one key map per family, checked before anything runs."""

from .clip import load_clip, load_image_encoder, load_text_encoder, save_clip
from .preprocessing import load_preprocessing

__all__ = ["load_clip", "load_image_encoder", "load_preprocessing", "load_text_encoder", "save_clip"]
