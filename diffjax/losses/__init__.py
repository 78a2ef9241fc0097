"""Losses: one weighted squared error, the weights the literature gives it, the variational bound, and CLIP's losses."""

from diffjax.losses import contrastive
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
  "contrastive",
  "denoising",
  "hybrid",
  "mean_flat",
  "variational_bound",
]
