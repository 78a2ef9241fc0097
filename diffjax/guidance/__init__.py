"""Guidance: wrappers from denoiser to denoiser, composed by nesting. Their attributes are traced hyper-parameters."""

from diffjax.guidance import energy, inverse
from diffjax.guidance.adaptive_projected import AdaptiveProjected
from diffjax.guidance.autoguidance import AutoGuidance
from diffjax.guidance.classifier import Classifier
from diffjax.guidance.classifier_free import ClassifierFree
from diffjax.guidance.composed import Composed
from diffjax.guidance.embedded import Embedded
from diffjax.guidance.energies import penalties
from diffjax.guidance.energies.clip import ClipEnergy, clip
from diffjax.guidance.energies.views import Cutouts, small_views
from diffjax.guidance.energy import DecodedEnergy, Energies, EnergyGuidance, energies
from diffjax.guidance.inverse import dps, pigdm
from diffjax.guidance.perturbed_attention import PerturbedAttention
from diffjax.guidance.thresholding import DynamicThreshold, StaticThreshold
from diffjax.guidance.training_free import disco, freedom, lgd, mpgd, training_free, universal

__all__ = [
  "AdaptiveProjected",
  "AutoGuidance",
  "Classifier",
  "ClassifierFree",
  "ClipEnergy",
  "Composed",
  "Cutouts",
  "DecodedEnergy",
  "DynamicThreshold",
  "Embedded",
  "Energies",
  "EnergyGuidance",
  "PerturbedAttention",
  "StaticThreshold",
  "clip",
  "disco",
  "dps",
  "energies",
  "energy",
  "freedom",
  "inverse",
  "lgd",
  "mpgd",
  "penalties",
  "pigdm",
  "small_views",
  "training_free",
  "universal",
]
