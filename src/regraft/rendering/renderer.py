"""What a renderer is: how rows of one modality are shown. What is said about the answer is the same for all.

a cell:  what was predicted, and what it is if that is known and another
         the raw value, as people look at it
         the likeliest answers as bars
"""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from regraft.types import Prediction

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

BARS = 3
"""Most answers that are shown with their probability."""

Box = tuple[float, float, float, float]
"""Left, bottom, width and height on a figure, as shares of it."""

Piece = dict[str, Any]
"""A part of what is shown of a row, told apart by its first key.

    {"text": "...", "left_out": 120}                        characters that do not stand there
    {"picture": "data:...", "width": 28, "height": 28}      of what is shown
    {"sound": "data:...", "seconds": 1.8, "of": 6.2}        its beginning
    {"lines": [[0.1, None, ...], ...], "channels": 3, "steps": 900}
    {"cells": [["age", "39"], ...], "left_out": 4}          columns that do not stand there
    {"named": "body", "pieces": [...]}                      a part of a row
"""

TEXT_CHARACTERS = 400
_SPARKS = "▁▂▃▄▅▆▇█"
_TURNING = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One answered row.

    Args:
        row: Its number in the data, counting from 1.
        raw: The raw value; None where it could not be read.
        prediction: The answer.
        truth: What the answer should be, as text; None where that is not known.
    """

    row: int
    raw: Any
    prediction: Prediction
    truth: str | None = None


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What is said about an answer.

    Args:
        title: The answer.
        truth: What it should have been, if it is another and known.
        right: Whether it is right; None where that is not known.
        bars: (name, share) of the likeliest answers, the likeliest first.
    """

    title: str
    truth: str
    right: bool | None
    bars: tuple[tuple[str, float], ...]

    def headline(self, characters: int) -> str:
        """Return answer and truth in one line of at most so many characters."""
        if not self.truth:
            return cut(self.title, characters)
        room = max(8, characters - len(" (is )"))
        half = room // 2
        title = cut(self.title, max(half, room - len(self.truth)))
        return f"{title} (is {cut(self.truth, max(half, room - len(title)))})"


class Renderer(ABC):
    """Show rows of one modality.

    Attributes:
        width_in: Of a raw value on paper, in inches.
        height_in: The same.
    """

    width_in: float
    height_in: float

    @classmethod
    def of(cls, modality: Any) -> Self:
        """Return the renderer of rows that a modality reads.

        Args:
            modality: The one that its artifact holds.
        """
        return cls()

    @abstractmethod
    def draw(self, figure: Figure, box: Box, raw: Any) -> None:
        """Draw a raw value into a part of a figure.

        Args:
            figure: Of matplotlib.
            box: The part.
            raw: The raw value.
        """

    def html(self, raw: Any) -> str:
        """Return a raw value as HTML that is safe whatever it holds; nothing where the drawing is embedded."""
        return ""

    def pieces(self, raw: Any, most_bytes: int) -> list[Piece]:
        """Return a raw value as JSON that a page shows without any library; what is left out is said in it.

        Args:
            raw: The raw value.
            most_bytes: Room for it.
        """
        return text_pieces(str(raw), most_bytes)

    @abstractmethod
    def terminal(self, raw: Any, columns: int) -> RenderableType:
        """Return a raw value for the terminal, at most so many columns wide."""


def caption(shown: Shown) -> Caption:
    """Return what is said about an answer.

    Example:
        >>> found = Prediction(value="ham", probabilities={"ham": 0.9, "spam": 0.1})
        >>> caption(Shown(row=1, raw=None, prediction=found, truth="spam"))
        Caption(title='ham', truth='spam', right=False, bars=(('ham', 0.9), ('spam', 0.1)))
    """
    found = shown.prediction
    if found.error:
        return Caption(title=f"no answer: {plain(found.error)}", truth=plain(shown.truth or ""), right=None, bars=())
    title = named(found.value)
    if found.quantiles:
        title += " [" + ", ".join(named(number) for number in found.quantiles.values()) + "]"
    truth = None if shown.truth is None else plain(shown.truth)
    exact = isinstance(found.value, float | Mapping)  # a number is never quite right; of several targets, some may be
    right = None if truth is None or exact else truth == named(found.value)
    best = sorted(found.probabilities.items(), key=lambda item: -item[1])[:BARS]
    bars = tuple((plain(name), float(share)) for name, share in best)
    return Caption(title=title, truth="" if truth is None or right else truth, right=right, bars=bars)


def named(value: Any) -> str:
    """Return an answer, or what it should have been, as text."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{plain(str(name))} {named(one)}" for name, one in value.items() if one is not None)
    if isinstance(value, list | tuple):
        return ", ".join(sorted(plain(str(item)) for item in value)) or "none"
    return plain(str(value))


def plain(text: str) -> str:
    """Return a text in one line without what does not show or turns the direction of writing.

    Example:
        >>> plain(" two  lines" + chr(10) + chr(0x202E) + "!")
        'two lines !'
    """
    kept = "".join(" " if unicodedata.category(char) in {"Cc", "Cs", "Co", "Cn"} else char for char in _TURNING.sub("", text))
    return " ".join(kept.split())


def cut(text: str, characters: int) -> str:
    """Return a text of at most so many characters; what is cut off leaves a sign."""
    return text if len(text) <= characters else text[: max(1, characters - 1)].rstrip() + "…"


def text_pieces(text: str, most_bytes: int, characters: int = TEXT_CHARACTERS) -> list[Piece]:
    """Return the beginning of a text, and how many characters do not stand there.

    Example:
        >>> text_pieces("a long story", 1000, characters=6)
        [{'text': 'a long', 'left_out': 6}]
    """
    whole = plain(text)
    shown = whole[: min(characters, max(1, most_bytes // 4))]
    return [{"text": shown, "left_out": len(whole) - len(shown)}]


def sparks(values: Sequence[float], columns: int) -> str:
    """Return numbers as a line of blocks, each the mean of its part; a gap where nothing was measured.

    Example:
        >>> sparks([0, 1, 2, 3, float("nan")], 5)
        '▁▃▆█ '
    """
    import numpy as np

    values_T = np.asarray(values, dtype=float)
    parts = np.array_split(values_T, min(columns, len(values_T))) if len(values_T) else []
    means = [float(np.nanmean(part)) if np.isfinite(part).any() else float("nan") for part in parts]
    known = [mean for mean in means if mean == mean]
    low, span = (min(known), max(known) - min(known)) if known else (0.0, 0.0)
    top = len(_SPARKS) - 1
    return "".join(" " if mean != mean else _SPARKS[round(top * ((mean - low) / span if span else 0.5))] for mean in means)


def columns_of(raw: Any) -> Mapping[str, Any]:
    """Return a row of several columns as a mapping, and anything else as one column without a name."""
    return raw if isinstance(raw, Mapping) else {"": raw}
