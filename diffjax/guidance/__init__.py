"""Guidance: functions from denoiser to denoiser, composed by nesting. Their attributes are traced hyper-parameters."""

from diffjax.guidance.classifier_free import ClassifierFree
from diffjax.guidance.thresholding import DynamicThreshold, StaticThreshold

__all__ = ["ClassifierFree", "DynamicThreshold", "StaticThreshold"]
