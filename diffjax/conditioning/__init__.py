"""Conditioning: from a user's request to a network's `cond`, and to the null cond."""

from diffjax.conditioning.labels import Labels
from diffjax.conditioning.text import Text, TextTower
from diffjax.conditioning.unconditional import Unconditional
from diffjax.conditioning.weighted_prompt import split_prompt, split_weighted

__all__ = ["Labels", "Text", "TextTower", "Unconditional", "split_prompt", "split_weighted"]
