"""Pictures: data sources of uint8 examples, and endless shuffled batches of them. Nothing here imports jax."""

from diffjax.data.batching import batches, id_batches
from diffjax.data.loading import load
from diffjax.data.source import Source, in_memory

__all__ = ["Source", "batches", "id_batches", "in_memory", "load"]
