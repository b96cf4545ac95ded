"""Work that is done once: features of frozen layers by the digest of the row, in memory and on disk."""

from regraft.training.cache.bf16 import from_bf16, to_bf16
from regraft.training.cache.options import CacheKey, CacheOptions
from regraft.training.cache.ragged import Ragged, open_ragged
from regraft.training.cache.tokens import encoded_store

__all__ = ["CacheKey", "CacheOptions", "Ragged", "encoded_store", "from_bf16", "open_ragged", "to_bf16"]
