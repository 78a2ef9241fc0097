"""Networks: functions of arrays and parameters that know nothing of diffusion."""

from .published import PUBLISHED
from .unet import UNet

__all__ = ["PUBLISHED", "UNet"]
