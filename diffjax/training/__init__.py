"""Training: objectives, one pure step, and `fit`, which trains on arrays in memory."""

from diffjax.training.fit import fit
from diffjax.training.objectives.clip import ContrastiveObjective
from diffjax.training.objectives.denoising import DenoisingObjective
from diffjax.training.step import TrainState, TrainStep, init_state, several_steps

__all__ = [
  "ContrastiveObjective",
  "DenoisingObjective",
  "TrainState",
  "TrainStep",
  "fit",
  "init_state",
  "several_steps",
]
