"""Losses: one weighted squared error, the weights the literature gives it, the variational bound, CLIP's losses,
and those of two players."""

from diffjax.losses import adversarial, contrastive
from diffjax.losses.bounds import hybrid, variational_bound
from diffjax.losses.squared_error import denoising, mean_flat
from diffjax.losses.weights import P2, SNR, MinSNR, Preconditioned, Sigmoid, Simple, Weight

__all__ = [
  "P2",
  "SNR",
  "MinSNR",
  "Preconditioned",
  "Sigmoid",
  "Simple",
  "Weight",
  "adversarial",
  "contrastive",
  "denoising",
  "hybrid",
  "mean_flat",
  "variational_bound",
]
