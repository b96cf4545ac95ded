"""What free text looks like in a table, and texts made from numbers for tests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from regraft.types import FloatArray

_LOOKED_AT = 2_000
_ADDRESS = re.compile(r"(?:[a-z][a-z0-9+.-]*://|www\.|[\w.+-]+@[\w-]+\.)\S*$|(?:/|[a-z]:\\)[^\s/\\]+[/\\]", re.IGNORECASE)
_LEVELS = 8
_SCALES = (
    ("terrible", "awful", "bad", "poor", "fair", "good", "great", "wonderful"),
    ("freezing", "icy", "cold", "cool", "mild", "warm", "hot", "boiling"),
    ("microscopic", "tiny", "small", "little", "big", "large", "huge", "gigantic"),
    ("motionless", "sluggish", "slow", "calm", "brisk", "quick", "fast", "lightning"),
    ("silent", "whispering", "quiet", "soft", "audible", "noisy", "loud", "deafening"),
)
# fmt: off
_FILLERS = (
    "the", "it", "was", "and", "then", "some", "people", "on", "that", "day", "which", "we", "saw", "there", "with",
    "of", "in", "to", "a", "for", "by", "this", "one", "from", "house", "table", "door", "street", "paper", "water",
    "garden", "number", "letter", "morning", "window", "story", "name",
)
# fmt: on


def recognises(values: Sequence[Any]) -> bool:
    """Return whether values look like free text and not like codes, names, dates, addresses or numbers.

    Text has on average more than two words (or more than 15 characters, for scripts that put no spaces), is mostly letters,
    and mostly different from row to row.

    Args:
        values: Values of one column, None left out; the first 2,000 are looked at.

    Example:
        >>> recognises(["I like it very much", "not what I ordered, sending it back"])
        True
        >>> recognises(["A-17", "B-22"])
        False
    """
    seen = list(values[:_LOOKED_AT])
    texts = [value for value in seen if isinstance(value, str) and value.strip()]
    if not texts or len(texts) < 0.9 * len(seen):
        return False
    words = float(np.mean([len(text.split()) for text in texts]))
    chars = float(np.mean([len(text.strip()) for text in texts]))
    free = float(np.mean([_is_free(text.strip()) for text in texts]))
    distinct = len(set(texts)) / len(texts)
    return free > 0.5 and distinct > 0.5 and (words > 2 or chars > 15)


def _is_free(text: str) -> bool:
    """Return whether one value has several words, most of them of letters; or mostly letters of a script without spaces."""
    text = text[:2_000]
    if _ADDRESS.match(text):
        return False
    pieces = text.split()
    wordy = sum(_mostly_letters(piece) for piece in pieces)
    if len(pieces) == 1 and not text.isascii():
        return wordy == 1
    return wordy >= 2 and wordy >= 0.5 * len(pieces)


def _mostly_letters(piece: str) -> bool:
    letters = sum(character.isalpha() for character in piece)
    return letters > 0.5 * sum(character.isalnum() for character in piece)


def example(signal_NS: FloatArray, seed: int) -> list[str]:
    """Render rows of numbers as texts from which they can be learnt back.

    Each number becomes the word for its size on a scale of eight, said twice, at any place among filler words.

    Args:
        signal_NS: N rows of S numbers in [0, 1].
        seed: Draws fillers, their number and the order.
    """
    rng = np.random.default_rng(seed)
    texts = []
    for row_S in np.clip(np.asarray(signal_NS, dtype=float), 0.0, 1.0):
        words = [_word(axis, min(int(value * _LEVELS), _LEVELS - 1)) for axis, value in enumerate(row_S)] * 2
        words += [_FILLERS[i] for i in rng.integers(len(_FILLERS), size=int(rng.integers(1, 9)))]
        texts.append(" ".join(words[i] for i in rng.permutation(len(words))))
    return texts


def _word(axis: int, level: int) -> str:
    if axis < len(_SCALES):
        return _SCALES[axis][level]
    consonants, vowels = "bdfgklmnprstvz", "aeiou"
    name, number = "", axis
    while number or not name:
        number, letter = divmod(number, len(consonants))
        name += consonants[letter] + vowels[letter % len(vowels)]
    return f"{name}x{consonants[level]}{vowels[level % len(vowels)]}"
