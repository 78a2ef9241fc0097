"""Editing: sampling that starts from an image instead of noise, with any denoiser."""

import warnings

from diffjax.editing.ensemble import Ensemble
from diffjax.editing.inpainting import Inpaint, RePaint, hole
from diffjax.editing.interpolation import slerp
from diffjax.editing.inversion import ddim_invert, invert
from diffjax.editing.sdedit import img2img, shorten

__all__ = ["Ensemble", "Inpaint", "RePaint", "ddim_invert", "hole", "img2img", "invert", "shorten", "slerp"]


def __getattr__(name: str):
  if name == "Compose":
    message = "diffjax.editing.Compose is now diffjax.editing.Ensemble; use that name."
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return Ensemble
  raise AttributeError(f"module 'diffjax.editing' has no attribute {name!r}; see dir(diffjax.editing).")
