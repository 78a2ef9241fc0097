"""Guidance: functions from denoiser to denoiser, composed by nesting. Their attributes are traced hyper-parameters."""

from diffjax.guidance import inverse
from diffjax.guidance.adaptive_projected import AdaptiveProjected
from diffjax.guidance.autoguidance import AutoGuidance
from diffjax.guidance.classifier import Classifier
from diffjax.guidance.classifier_free import ClassifierFree
from diffjax.guidance.composed import Composed
from diffjax.guidance.energy import Energies, EnergyGuidance, energies
from diffjax.guidance.inverse import dps, pigdm
from diffjax.guidance.perturbed_attention import PerturbedAttention
from diffjax.guidance.thresholding import DynamicThreshold, StaticThreshold
from diffjax.guidance.training_free import freedom, lgd, mpgd, training_free, universal

__all__ = [
  "AdaptiveProjected",
  "AutoGuidance",
  "Classifier",
  "ClassifierFree",
  "Composed",
  "DynamicThreshold",
  "Energies",
  "EnergyGuidance",
  "PerturbedAttention",
  "StaticThreshold",
  "dps",
  "energies",
  "freedom",
  "inverse",
  "lgd",
  "mpgd",
  "pigdm",
  "training_free",
  "universal",
]
