"""Networks: functions of arrays and parameters that know nothing of diffusion."""

from .clip import CLIP, Encoded, ImageEncoder, TextEncoder, unit
from .image_features import ImageFeatures
from .preprocess import preprocess
from .published import PUBLISHED
from .published_clip import PUBLISHED_CLIP
from .unet import UNet

__all__ = [
  "CLIP",
  "PUBLISHED",
  "PUBLISHED_CLIP",
  "Encoded",
  "ImageEncoder",
  "ImageFeatures",
  "TextEncoder",
  "UNet",
  "preprocess",
  "unit",
]
