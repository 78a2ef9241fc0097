"""Networks: functions of arrays and parameters, independent of diffusion."""

from diffjax.networks.autoencoder import AutoencoderKL, Gaussian
from diffjax.networks.clip import CLIP, Encoded, ImageEncoder, TextEncoder, unit
from diffjax.networks.contract import Contract, contract
from diffjax.networks.discriminator import PatchDiscriminator
from diffjax.networks.image_features import ImageFeatures
from diffjax.networks.preprocess import preprocess
from diffjax.networks.published import PUBLISHED
from diffjax.networks.published_clip import PUBLISHED_CLIP
from diffjax.networks.published_latent import PUBLISHED_AUTOENCODERS, PUBLISHED_TEXT_UNETS
from diffjax.networks.text_unet import TextUNet
from diffjax.networks.tiny_autoencoder import TinyAutoencoder
from diffjax.networks.unet import UNet

__all__ = [
  "CLIP",
  "PUBLISHED",
  "PUBLISHED_AUTOENCODERS",
  "PUBLISHED_CLIP",
  "PUBLISHED_TEXT_UNETS",
  "AutoencoderKL",
  "Contract",
  "Encoded",
  "Gaussian",
  "ImageEncoder",
  "ImageFeatures",
  "PatchDiscriminator",
  "TextEncoder",
  "TextUNet",
  "TinyAutoencoder",
  "UNet",
  "contract",
  "preprocess",
  "unit",
]
