"""In which script a text is written: what can be told of its language cheaply, and without guessing.

A script is no language: Latin letters are English as well as Turkish. Where the language matters, give a column of it.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

_MOST_LETTERS = 2000
_SHARE = 0.9
_TOGETHER = {"HIRAGANA": "Japanese", "KATAKANA": "Japanese", "CJK": "Han", "HANGUL": "Hangul", "FULLWIDTH": "Latin"}
MIXED = "mixed"
NO_LETTERS = "no letters"


def script_of(text: str) -> str:
    """Return the script of nine tenths of the letters of a text ("Latin", "Cyrillic", "Han"), else "mixed".

    Names are those of the Unicode standard, read off the names of the letters. Texts with Hiragana or Katakana are "Japanese",
    whose Han letters count as well. The first 2,000 letters count.

    Args:
        text: Any text.

    Example:
        >>> [script_of(text) for text in ("Good day", "Добрый день", "今日は", "你好", "12.5 %", "ok, спасибо")]
        ['Latin', 'Cyrillic', 'Japanese', 'Han', 'no letters', 'mixed']
    """
    counts: dict[str, int] = {}
    letters = 0
    for sign in text:
        if sign.isalpha():
            script = _script(sign)
            counts[script] = counts.get(script, 0) + 1
            letters += 1
            if letters >= _MOST_LETTERS:
                break
    if not letters:
        return NO_LETTERS
    if "Japanese" in counts:
        counts["Japanese"] += counts.pop("Han", 0)
    first = max(counts, key=lambda script: counts[script])
    return first if counts[first] >= _SHARE * letters else MIXED


@lru_cache(maxsize=65536)
def _script(letter: str) -> str:
    word = unicodedata.name(letter, "UNKNOWN").partition(" ")[0]
    return _TOGETHER.get(word, word.capitalize())
