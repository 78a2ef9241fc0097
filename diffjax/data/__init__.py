"""Data: sources of uint8 images, infinite shuffled batches of them, and tokenized text. Does not import jax."""

from diffjax.data.arrays import from_arrays
from diffjax.data.batching import batches, id_batches
from diffjax.data.buckets import bucket_sizes
from diffjax.data.captions import captions
from diffjax.data.loading import load
from diffjax.data.source import Source, evenly, in_memory, with_tokens
from diffjax.data.tokens import Tokenizer, load_tokenizer, train_tokenizer

__all__ = [
  "Source",
  "Tokenizer",
  "batches",
  "bucket_sizes",
  "captions",
  "evenly",
  "from_arrays",
  "id_batches",
  "in_memory",
  "load",
  "load_tokenizer",
  "train_tokenizer",
  "with_tokens",
]
