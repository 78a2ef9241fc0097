"""From any picture to CLIP's vector, in one differentiable function."""

from diffjax import struct
from diffjax.networks.clip import ImageEncoder, unit
from diffjax.networks.preprocess import CLIP_MEAN, CLIP_STD, SIGLIP_MEAN, SIGLIP_STD, preprocess
from diffjax.typing import Array, PyTree

Numbers = tuple[float, float, float]


@struct.dataclass
class ImageFeatures:
  """images [B, H, W, 1 or 3] in -1..1, of any size -> unit vectors [B, D], float32.

  Gray becomes three equal channels, and three become their mean for a tower that sees one; the picture is resized as
  `prepare` does. A tower of another number of channels is a ValueError.

  Attributes:
    params: of the tower.
    module: the tower.
    mean, std, crop: as in `prepare`.
  """

  params: PyTree
  module: ImageEncoder = struct.field(pytree_node=False)
  mean: Numbers | None = struct.field(pytree_node=False, default=None)
  std: Numbers | None = struct.field(pytree_node=False, default=None)
  crop: bool | None = struct.field(pytree_node=False, default=None)

  def __call__(self, images: Array) -> Array:
    prepared = prepare(images, self.module, self.mean, self.std, self.crop)
    return unit(self.module.apply(self.params, prepared).features)  # pyright: ignore[reportAttributeAccessIssue]  Flax: no pair, as nothing is mutable


def prepare(
  images: Array,
  module: ImageEncoder,
  mean: Numbers | None = None,
  std: Numbers | None = None,
  crop: bool | None = None,
) -> Array:
  """What a tower sees of images [B, H, W, 1 or 3] in -1..1; what lies beyond passes, and keeps its gradient.

  Args:
    images: of any size.
    module: the tower.
    mean, std: per channel, of pictures in 0..1; default: SigLIP's for a tower that pools by attention, else CLIP's.
    crop: whether the middle is taken, or both sides are squeezed; default: as there.
  """
  siglip = module.pooling == "attention"
  mean = mean or (SIGLIP_MEAN if siglip else CLIP_MEAN)
  std = std or (SIGLIP_STD if siglip else CLIP_STD)
  crop = not siglip if crop is None else crop
  prepared = preprocess(images, module.image_size, mean=mean, std=std, crop=crop, clip=False)
  return prepared.mean(axis=-1, keepdims=True) if module.channels == 1 else prepared
