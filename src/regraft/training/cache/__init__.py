"""Work that is done once: features of frozen layers by the digest of the row, in memory and on disk."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regraft.training.cache.bf16 import from_bf16 as from_bf16
    from regraft.training.cache.bf16 import to_bf16 as to_bf16
    from regraft.training.cache.options import CacheKey as CacheKey
    from regraft.training.cache.options import CacheOptions as CacheOptions
    from regraft.training.cache.ragged import Ragged as Ragged
    from regraft.training.cache.ragged import open_ragged as open_ragged
    from regraft.training.cache.tokens import encoded_store as encoded_store

# Options of every verb name the cache; only a fit uses it.
_HOMES = {
    "CacheKey": "options",
    "CacheOptions": "options",
    "Ragged": "ragged",
    "encoded_store": "tokens",
    "from_bf16": "bf16",
    "open_ragged": "ragged",
    "to_bf16": "bf16",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
