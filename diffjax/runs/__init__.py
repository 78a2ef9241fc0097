"""A run's folder, and the trained models in it."""

from diffjax.from_config.clip_run import ClipRun
from diffjax.runs.autoencoder import load_autoencoder
from diffjax.runs.clip import load_clip
from diffjax.runs.diffusion import Run, load_run, open_pipeline
from diffjax.runs.dry_run import dry_run
from diffjax.runs.folder import BEST, CHECKPOINTS, CONFIG, LOCK, claim, claimed, has_begun, load_data, read_config
from diffjax.runs.frozen import captioned, encoded_once, keep_frozen, load_frozen, load_text_tower
from diffjax.runs.initial import load_start, start_from
from diffjax.runs.preview import preview
from diffjax.runs.prompts import Prompt, make_prompt

__all__ = [
  "BEST",
  "CHECKPOINTS",
  "CONFIG",
  "LOCK",
  "ClipRun",
  "Prompt",
  "Run",
  "captioned",
  "claim",
  "claimed",
  "dry_run",
  "encoded_once",
  "has_begun",
  "keep_frozen",
  "load_autoencoder",
  "load_clip",
  "load_data",
  "load_frozen",
  "load_run",
  "load_start",
  "load_text_tower",
  "make_prompt",
  "open_pipeline",
  "preview",
  "read_config",
  "start_from",
]
