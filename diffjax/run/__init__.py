"""A run's folder, and the trained models in it."""

from diffjax.run.clip import ClipRun, load_clip
from diffjax.run.diffusion import Run, load_run
from diffjax.run.dry_run import dry_run
from diffjax.run.folder import BEST, CHECKPOINTS, CONFIG, LOCK, claim, claimed, load_data, read_config
from diffjax.run.preview import preview
from diffjax.run.prompts import Prompt, make_prompt

__all__ = [
  "BEST",
  "CHECKPOINTS",
  "CONFIG",
  "LOCK",
  "ClipRun",
  "Prompt",
  "Run",
  "claim",
  "claimed",
  "dry_run",
  "load_clip",
  "load_data",
  "load_run",
  "make_prompt",
  "preview",
  "read_config",
]
