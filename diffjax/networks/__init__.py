"""Networks: functions of arrays and parameters, independent of diffusion."""

from diffjax.networks.clip import CLIP, Encoded, ImageEncoder, TextEncoder, unit
from diffjax.networks.contract import Contract, contract
from diffjax.networks.image_features import ImageFeatures
from diffjax.networks.preprocess import preprocess
from diffjax.networks.published import PUBLISHED
from diffjax.networks.published_clip import PUBLISHED_CLIP
from diffjax.networks.unet import UNet

__all__ = [
  "CLIP",
  "PUBLISHED",
  "PUBLISHED_CLIP",
  "Contract",
  "Encoded",
  "ImageEncoder",
  "ImageFeatures",
  "TextEncoder",
  "UNet",
  "contract",
  "preprocess",
  "unit",
]
