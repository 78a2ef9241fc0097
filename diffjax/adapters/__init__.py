"""Adapters: what changes a trained model without replacing it."""

from diffjax.adapters.lora import Decomposed, Full, Hadamard, Kronecker, LoRA, LowRank, merge

__all__ = ["Decomposed", "Full", "Hadamard", "Kronecker", "LoRA", "LowRank", "merge"]
