"""Conditioning: from what a person asks for to the `cond` of a network, and to that of asking for nothing."""

from diffjax.conditioning.clip_prompts import ClipPrompts, among
from diffjax.conditioning.labels import Labels
from diffjax.conditioning.text import split_prompt
from diffjax.conditioning.unconditional import Unconditional

__all__ = ["ClipPrompts", "Labels", "Unconditional", "among", "split_prompt"]
