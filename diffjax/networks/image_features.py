"""From any image to CLIP's feature vector, in one differentiable function."""

from diffjax import struct
from diffjax.networks.clip import ImageEncoder, unit
from diffjax.networks.preprocess import CLIP_MEAN, CLIP_STD, SIGLIP_MEAN, SIGLIP_STD, preprocess
from diffjax.typing import Array, PyTree

Numbers = tuple[float, float, float]


@struct.dataclass
class ImageFeatures:
  """images [B, H, W, 1 or 3] in -1..1, of any size -> unit vectors [B, D], float32.

  Gray becomes three equal channels, and three become their mean for a one-channel tower; images are resized as in
  `prepare`. Raises ValueError for a tower with another number of channels.

  Attributes:
    params: the tower's parameters.
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

  def hidden(self, images: Array) -> tuple[Array, ...]:
    """The input of the tower's first layer and the output of each, [B, L, width], scaled to unit length."""
    prepared = prepare(images, self.module, self.mean, self.std, self.crop)
    encoded = self.module.apply(self.params, prepared)
    return tuple(map(unit, encoded.hidden))  # pyright: ignore[reportAttributeAccessIssue]  Flax: no pair


def prepare(
  images: Array,
  module: ImageEncoder,
  mean: Numbers | None = None,
  std: Numbers | None = None,
  crop: bool | None = None,
) -> Array:
  """A tower's input for images [B, H, W, 1 or 3] in -1..1; values outside are not clipped and keep their gradient.

  Args:
    images: of any size.
    module: the tower.
    mean, std: per channel, for images in 0..1; default: SigLIP's for a tower that pools by attention, else CLIP's.
    crop: True takes the centre, False squeezes both sides; default: False for a tower that pools by attention.
  """
  siglip = module.pooling == "attention"
  mean = mean or (SIGLIP_MEAN if siglip else CLIP_MEAN)
  std = std or (SIGLIP_STD if siglip else CLIP_STD)
  crop = not siglip if crop is None else crop
  prepared = preprocess(images, module.image_size, mean=mean, std=std, crop=crop, clip=False)
  return prepared.mean(axis=-1, keepdims=True) if module.channels == 1 else prepared
