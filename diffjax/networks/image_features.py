"""From any picture to CLIP's vector, in one differentiable function."""

from .. import struct
from ..typing import Array, PyTree
from .clip import ImageEncoder, unit
from .preprocess import CLIP_MEAN, CLIP_STD, SIGLIP_MEAN, SIGLIP_STD, preprocess


@struct.dataclass
class ImageFeatures:
  """images [B, H, W, 1 or 3] in -1..1, of any size -> unit vectors [B, D], float32.

  Gray becomes three equal channels, and three become their mean for a tower that sees one; the picture is resized and
  its middle taken, or squeezed for SigLIP, as the tower was trained. What lies beyond -1..1 passes, and keeps its
  gradient. A tower of another number of channels is a ValueError.

  Attributes:
    params: of the tower.
    module: the tower.
  """

  params: PyTree
  module: ImageEncoder = struct.field(pytree_node=False)

  def __call__(self, images: Array) -> Array:
    siglip = self.module.pooling == "attention"
    mean, std = (SIGLIP_MEAN, SIGLIP_STD) if siglip else (CLIP_MEAN, CLIP_STD)
    prepared = preprocess(images, self.module.image_size, mean=mean, std=std, crop=not siglip, clip=False)
    if self.module.channels == 1:
      prepared = prepared.mean(axis=-1, keepdims=True)
    return unit(self.module.apply(self.params, prepared).features)
