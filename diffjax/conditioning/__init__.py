"""Conditioning: from a user's request to a network's `cond`, and to the null cond."""

from diffjax.conditioning.labels import Labels
from diffjax.conditioning.text import split_prompt
from diffjax.conditioning.unconditional import Unconditional

__all__ = ["Labels", "Unconditional", "split_prompt"]
