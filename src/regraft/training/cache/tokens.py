"""The store of encoded rows that belongs to the cache: the same folder, the same budget."""

from __future__ import annotations

from regraft.modalities.encoded_store import EncodedStore
from regraft.training.cache.budget import Note
from regraft.training.cache.options import CacheOptions


def encoded_store(preprocessing: str, options: CacheOptions, note: Note, *, about: str = "") -> EncodedStore | None:
    """Return where encoded rows are kept, or None where nothing is.

    Args:
        preprocessing: Digest of the modality (`regraft.modalities.digests.modality_digest`).
        options: What may be used.
        note: Called with one line when something was damaged or could not be kept.
        about: Name of the modality and the base, for people.
    """
    if not options.disk_bytes:
        return None
    return EncodedStore(options.place, options.disk_bytes, preprocessing, note, about=about)
