"""Two texts of a row as one, as the base's tokenizer encodes a pair: question and passage, premise and hypothesis. No torch.

    [CLS] the first text [SEP] the second text [SEP]         input_ids
      0    0    0     0    0    1    1      1    1           token_type_ids, where the base takes them

A raw value is a mapping from the two columns to their texts. What is too long is cut where it is longest, as the hub's
tokenizers do it (`truncation="longest_first"`): the longer text alone while that is enough, then both to the same length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from tokenizers import Tokenizer

from regraft.data.gathering import Surveyed
from regraft.errors import DataError, OptionsError, Problem
from regraft.modalities.modality import Modality
from regraft.modalities.text import Text, TextOptions, read_companions, read_tokenizer, unreadable
from regraft.options import JSON, Field, build, options, to_json
from regraft.types import Array, Encoded, FloatArray

if TYPE_CHECKING:
    from regraft.data.gathering import Survey

_TWO = 2
_PAIRS_AT_ONCE = 256
_LOOKED_AT = 100
_NEITHER = -1


@options
class TextPairOptions(TextOptions):
    """How two texts become tokens."""

    columns: list[str] = Field(default_factory=list)
    """The two columns, in order; what --text-pair names if not given."""


@dataclass(frozen=True, slots=True)
class EncodedPair(Encoded):
    """Two texts as one row of tokens.

    Args:
        column_T: For each position which of the two texts its span is of, 0 or 1; -1 where it stands between them.
    """

    column_T: Array | None = None


class TextPair(Text):
    """Turn two texts into tokens.

    Args:
        text: How the base's tokenizer reads one text.
        options: How long both may be together, which ends are cut, which columns they stand in.

    Example:
        >>> from tokenizers import models, pre_tokenizers, processors
        >>> words = Tokenizer(models.WordLevel({"<unk>": 0, "is": 1, "it": 2, "[SEP]": 3}, unk_token="<unk>"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> words.post_processor = processors.TemplateProcessing(pair="$A [SEP] $B:1", special_tokens=[("[SEP]", 3)])
        >>> pair = TextPair(Text(words, TextOptions()), TextPairOptions(columns=["question", "answer"]))
        >>> row = pair.encode([{"question": "is it", "answer": "it is"}])[0]
        >>> row.inputs["input_ids"].tolist(), row.column_T.tolist(), row.spans_T2[3].tolist()
        ([1, 2, 3, 2, 1], [0, 0, -1, 1, 1], [0, 2])
    """

    Options: ClassVar[type[Any]] = TextPairOptions
    name: ClassVar[str] = "text-pair"
    over: ClassVar[str] = "text"
    options: TextPairOptions

    def __init__(self, text: Text, options: TextPairOptions) -> None:
        super().__init__(text.tokenizer, options, inputs=text.inputs, pad_id=text.pad_id, files=text.companions, copy=True)

    def _take(self, tokenizer: Tokenizer, options: TextOptions) -> None:
        super()._take(tokenizer, options)
        specials = _specials(self._tokenizer.encode("a", "a"))
        if options.max_length < specials + _TWO:
            what, fix = "no room is left for the texts", "give max_length a larger value"
            expected = f"at least {specials + _TWO}: {specials} special tokens stand around every pair"
            raise OptionsError(Problem(what=what, where="max_length", got=str(options.max_length), expected=expected, fix=fix))

    @property
    def columns(self) -> tuple[str, ...]:
        """The two columns, in order."""
        return tuple(self.options.columns)

    def problem(self, raw: object) -> str:
        """Return why a raw value cannot be encoded, naming the column, or an empty string."""
        return _problem(raw, self.columns)

    def running_text(self, raw: Any) -> str:
        """Return both texts, one after the other."""
        return "\n".join(str(raw[column]) for column in self.columns)

    def encode(self, raws: Sequence[Any], *, spans: bool = True) -> list[Encoded]:
        """Encode pairs that have no `problem`, in order.

        Args:
            raws: Mappings with both columns.
            spans: Whether to find the characters that each token covers; without, all spans are (0, 0).
        """
        first, second = self.columns
        encoded: list[Encoded] = []
        run = self._tokenizer.encode_batch if spans else self._tokenizer.encode_batch_fast
        for start in range(0, len(raws), _PAIRS_AT_ONCE):
            texts = [(raw[first], raw[second]) for raw in raws[start : start + _PAIRS_AT_ONCE]]
            found = run([(self._head(one), self._head(two)) for one, two in texts])
            encoded += [self._pair(tokens, pair, spans) for tokens, pair in zip(found, texts, strict=True)]
        return encoded

    def _pair(self, found: Any, texts: tuple[str, str], spans: bool) -> Encoded:
        column_T = np.array([_NEITHER if one is None else one for one in found.sequence_ids], dtype=np.int8)
        kept_T = self._kept(column_T)
        ids_T = np.asarray(found.ids, dtype=np.int32)[kept_T]
        length, dropped = len(ids_T), int(len(kept_T) - np.count_nonzero(kept_T))
        if not length:  # a tokenizer without special tokens may find nothing in texts of odd characters
            nothing = np.zeros((1, 2), dtype=np.int32)
            row = self._row(np.asarray([self.pad_id], dtype=np.int32), nothing, dropped)
            return EncodedPair(row.inputs, nothing, dropped, np.array([_NEITHER], dtype=np.int8))
        spans_T2 = np.zeros((length, 2), dtype=np.int32)
        column_T = column_T[kept_T]
        if spans:
            spans_T2 = np.asarray(found.offsets, dtype=np.int32).reshape(-1, 2)[kept_T]
        for place, text in enumerate(texts):
            unseen = max(0, len(text) - self.options.max_chars)
            dropped += unseen
            if spans and unseen and self.options.truncation_side == "left":
                spans_T2[column_T == place] += unseen
        inputs: dict[str, Array] = {"input_ids": ids_T}
        if "token_type_ids" in self.inputs:
            inputs["token_type_ids"] = np.asarray(found.type_ids, dtype=np.int32)[kept_T]
        return EncodedPair(inputs, spans_T2, dropped, column_T)

    def _kept(self, column_T: Array) -> Array:
        """Return which tokens of a pair are kept: all that are special, and of each text those that it may have."""
        specials = int(np.count_nonzero(column_T == _NEITHER))
        lengths = [int(np.count_nonzero(column_T == place)) for place in range(_TWO)]
        room = self.options.max_length - specials
        kept_T = np.ones(len(column_T), dtype=bool)
        if sum(lengths) <= room:
            return kept_T
        for place, most in enumerate(longest_first(lengths[0], lengths[1], room)):
            of_T = np.flatnonzero(column_T == place)
            kept_T[of_T[most:] if self.options.truncation_side == "right" else of_T[: len(of_T) - most]] = False
        return kept_T

    def as_json(self, raw: Any) -> JSON:
        """Return a pair as a JSON object of its two columns."""
        return {name: raw[name] for name in self.columns}

    def shortened(self, raw: Any, limit_bytes: int) -> JSON:
        """Return a pair, of texts that take more than half of this room only the beginnings."""
        return {name: super(TextPair, self).shortened(raw[name], limit_bytes // _TWO) for name in self.columns}

    def spec(self) -> dict[str, JSON]:
        """Return the state that is not in files, as JSON."""
        return {**super().spec(), "columns": list(self.columns)}

    @classmethod
    def load(cls, folder: Path, spec: JSON) -> Self:
        """Rebuild from `save`d files and `spec`; encodes the same bytes as before."""
        made = cls.__new__(cls)
        made.inputs = tuple(spec["inputs"])
        made.pad_id = spec["pad_id"]
        made._files = read_companions(folder)
        made._take(read_tokenizer(folder), build(TextPairOptions, spec["options"], owner=cls.name))
        return made

    @classmethod
    def survey(cls, options: Mapping[str, JSON]) -> Survey:
        """Return what looks at the two columns."""
        return PairSurvey()

    @classmethod
    def inner(cls, raws: Sequence[Any], columns: Sequence[str]) -> list[Any]:
        """Return the texts of pairs, one after the other: what a vocabulary is learnt from."""
        return [raw[name] for raw in raws for name in columns]

    @classmethod
    def around(cls, made: Modality, columns: Sequence[str]) -> Modality:
        """Return how pairs are read, from how the base reads one text."""
        if not isinstance(made, Text):
            raise TypeError(f"a pair of texts is made of text, not {type(made).__name__}")
        wanted: dict[str, JSON] = {**to_json(made.options), "columns": list(columns)}
        return cls(made, build(TextPairOptions, wanted, owner=cls.name))

    @classmethod
    def recognises(cls, values: Sequence[Any]) -> bool:
        """Return whether values look like pairs: mappings of two texts."""
        seen = values[:_LOOKED_AT]
        return bool(seen) and all(
            isinstance(value, Mapping) and len(value) == _TWO and all(isinstance(text, str) for text in value.values())
            for value in seen
        )

    @classmethod
    def example(cls, signal_NS: FloatArray, seed: int) -> list[Any]:
        """Render numbers as pairs: both texts say them, in other words."""
        texts = [super(TextPair, cls).example(signal_NS, seed + place) for place in range(_TWO)]
        return [{"first": one, "second": two} for one, two in zip(*texts, strict=True)]

    def made_up(self, signal_NS: FloatArray, seed: int) -> list[Any]:
        """Render numbers as pairs with the columns that are read."""
        return [dict(zip(self.columns, raw.values(), strict=True)) for raw in self.example(signal_NS, seed)]


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how many tokens of each of two texts are kept, as the hub's fast tokenizers decide it.

    While cutting the longer text is enough, it alone is cut; else both are cut to half of the room, and where that is odd, the
    one that was longer has one more (the second, if they were equal).

    Args:
        first: Tokens of the first text.
        second: Tokens of the second.
        room: Tokens that both may have together; fewer than they have.

    Example:
        >>> longest_first(3, 10, 8), longest_first(10, 10, 9), longest_first(10, 3, 8)
        ((3, 5), (4, 5), (5, 3))
    """
    swapped = first > second
    shorter, longer = min(first, second), max(first, second)
    longer = shorter if shorter > room else max(shorter, room - shorter)
    if shorter + longer > room:
        shorter = room // 2
        longer = room - shorter
    return (longer, shorter) if swapped else (shorter, longer)


class PairSurvey:
    """Look at the columns of a pair: there are two."""

    def __init__(self) -> None:
        self._columns: tuple[str, ...] = ()

    def add(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Look at the values of some rows."""
        self._columns = tuple(columns)

    def finish(self, named: bool) -> Surveyed:
        """Return the two columns.

        Args:
            named: Whether the user named them.

        Raises:
            DataError: There are not two.
        """
        if len(self._columns) != _TWO:
            got = ", ".join(f"'{name}'" for name in self._columns[:20])
            fix = "name two columns: --text-pair FIRST,SECOND"
            problem = Problem(what="a pair of texts stands in two columns", got=got, expected="two columns", fix=fix)
            raise DataError(problem)
        first, second = self._columns
        note = f"'{first}' and '{second}' are read together as a pair of texts{', as given' if named else ''}"
        return Surveyed(self._columns, (note,), PairSight(self._columns), {"columns": [first, second]})


@dataclass(frozen=True)
class PairSight:
    """Look at pairs: are both texts?

    Args:
        columns: The two columns.
    """

    columns: tuple[str, ...]
    chunk_rows: int = 1024

    def located(self, raw: Any, folder: Path | None) -> Any:
        """Return a pair as it is: a text names no file."""
        return raw

    def opened(self, raw: Any) -> Any:
        """Return a pair as it is."""
        return raw

    def unreadable(self, raw: Any) -> str:
        """Return which of the two is no text, or an empty string."""
        return _problem(raw, self.columns)


def _problem(raw: object, columns: Sequence[str]) -> str:
    if not isinstance(raw, Mapping):
        named = " and ".join(f"'{name}'" for name in columns)
        return f"a row of the columns {named} is expected, got {type(raw).__name__}"
    reasons = [(name, unreadable(raw.get(name))) for name in columns]
    return "; ".join(f"column '{name}': {reason}" for name, reason in reasons if reason)


def _specials(found: Any) -> int:
    return sum(one is None for one in found.sequence_ids)


__all__ = ["EncodedPair", "TextPair", "TextPairOptions", "longest_first"]
