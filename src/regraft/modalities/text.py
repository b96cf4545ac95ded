"""Text as tokens, by the tokenizer that the base was trained with. No torch, no transformers.

A tokenizer is the `tokenizer.json` of the base. It is run without truncation and cut here, so that the number of tokens that
were lost is exact and the special tokens at both ends survive, as the hub's own tokenizers do it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from tokenizers import Tokenizer

from regraft.errors import BaseError, OptionsError, Problem
from regraft.modalities import free_text
from regraft.modalities.modality import Modality
from regraft.options import JSON, Field, build, options, to_json
from regraft.types import Array, Encoded, FloatArray

TOKENIZER_FILE = "tokenizer.json"
_COMPANIONS = ("tokenizer_config.json", "special_tokens_map.json")
_CHARACTERS_AT_ONCE = 2_000_000


@options
class TextOptions:
    """How texts become tokens."""

    max_length: Annotated[int, Field(ge=3, le=1_000_000, json_schema_extra={"flag": "--max-length"})] = 128
    """Longest text in tokens, special tokens included; what is longer is cut and counted."""

    truncation_side: Literal["right", "left"] = "right"
    """Which end of a longer text is cut off."""

    new_words: bool = False
    """Give words of the training rows that the base's tokenizer does not know (another script) tokens of their own, if they
    stand in two rows; their vectors are untrained, so let the base learn with them."""

    max_chars: Annotated[int, Field(ge=1)] = 100_000
    """Characters of a text that are looked at, at most; characters beyond are dropped unseen, each counted as one position."""


@dataclass(frozen=True)
class _Frame:
    """The special tokens that a tokenizer puts around a text, with their segment numbers."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    before_types: tuple[int, ...]
    after_types: tuple[int, ...]
    body_type: int

    @property
    def size(self) -> int:
        return len(self.before) + len(self.after)


class Text(Modality):
    """Turn text into tokens.

    Args:
        tokenizer: Of the base; its own truncation and padding are not used.
        options: How long, which end is cut.
        inputs: What the base takes: "input_ids" and perhaps "token_type_ids".
        pad_id: Token that fills a batch; never attended to.
        files: Companion files of the tokenizer (file name -> JSON), so that the saved folder is an ordinary one.
        copy: Whether the tokenizer is copied; without, nobody else may hold it.

    Example:
        >>> from tokenizers import models, pre_tokenizers
        >>> words = Tokenizer(models.WordLevel({"<unk>": 0, "good": 1, "day": 2}, unk_token="<unk>"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> row = Text(words, TextOptions()).encode(["good new day"])[0]
        >>> row.inputs["input_ids"].tolist(), row.spans_T2.tolist()
        ([1, 0, 2], [[0, 4], [5, 8], [9, 12]])
    """

    Options: ClassVar[type[Any]] = TextOptions
    name: ClassVar[str] = "text"
    libraries: tuple[str, ...] = ("tokenizers",)
    unit: ClassVar[str] = "tokens"

    def __init__(
        self,
        tokenizer: Tokenizer,
        options: TextOptions,
        *,
        inputs: Sequence[str] = ("input_ids",),
        pad_id: int = 0,
        files: Mapping[str, JSON] | None = None,
        copy: bool = True,
    ) -> None:
        self.inputs = tuple(inputs)
        self.pad_id = pad_id
        self._files = dict(files or {})
        self._take(Tokenizer.from_str(tokenizer.to_str()) if copy else tokenizer, options)

    def _take(self, tokenizer: Tokenizer, options: TextOptions) -> None:
        """Hold a tokenizer that nobody else holds."""
        self.options = options
        self._tokenizer = tokenizer
        self._largest: int | None = None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._frame = _frame(self._tokenizer)
        if options.max_length <= self._frame.size:
            raise OptionsError(
                Problem(
                    what="no room is left for the text",
                    where="max_length",
                    got=str(options.max_length),
                    expected=f"more than the {self._frame.size} special tokens around every text",
                    fix="give max_length a larger value",
                )
            )

    @property
    def padding(self) -> Mapping[str, float]:
        """Input name -> the value that fills positions after the end of a row."""
        return {name: self.pad_id if name == "input_ids" else 0 for name in self.inputs}

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the base, without truncation and padding."""
        return self._tokenizer

    @property
    def companions(self) -> Mapping[str, JSON]:
        """Companion files of the tokenizer (file name -> JSON)."""
        return self._files

    @property
    def longest(self) -> int:
        """Most tokens that a text can have, special tokens included."""
        return int(self.options.max_length)

    @property
    def largest_id(self) -> int:
        """Largest token number that can come out."""
        if self._largest is None:  # copying a vocabulary out of the tokenizer takes longer than an answer
            self._largest = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
        return self._largest

    def problem(self, raw: object) -> str:
        """Return why a raw value cannot be encoded, or an empty string."""
        return unreadable(raw)

    def running_text(self, raw: Any) -> str:
        """Return the text itself."""
        return str(raw)

    @classmethod
    def unreadable(cls, raw: Any) -> str:
        """Return why a value can never be read as text, or an empty string."""
        return unreadable(raw)

    def encode(self, raws: Sequence[Any], *, spans: bool = True) -> list[Encoded]:
        """Encode texts that have no `problem`, in order.

        Args:
            raws: The texts.
            spans: Whether to find the characters that each token covers; without, all spans are (0, 0).
        """
        run = self._tokenizer.encode_batch if spans else self._tokenizer.encode_batch_fast
        encoded: list[Encoded] = []
        for texts in _portions([self._head(raw) for raw in raws]):
            encoded += [self._cut(found, spans) for found in run(texts)]
        limit = self.options.max_chars
        return [
            row if len(raw) <= limit else self._with_unseen(row, len(raw) - limit)
            for raw, row in zip(raws, encoded, strict=True)
        ]

    def shortened(self, raw: Any, limit_bytes: int) -> JSON:
        """Return a text, or the beginning of one that takes more room than this."""
        return raw[: limit_bytes // 4] if len(raw.encode()) > limit_bytes else raw

    def spec(self) -> dict[str, JSON]:
        """Return the state that is not in files, as JSON."""
        told = to_json(self.options)
        del told["new_words"]  # what was learnt stands in the tokenizer's own file
        return {
            "options": told,
            "inputs": list(self.inputs),
            "pad_id": self.pad_id,
            "padding_side": "right",
        }

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and its companions, as any tool of the hub reads them."""
        self._tokenizer.save(str(folder / TOKENIZER_FILE), pretty=False)
        for name, content in self._files.items():
            (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, spec: JSON) -> Self:
        """Rebuild from `save`d files and `spec`; encodes the same bytes as before."""
        made = cls.__new__(cls)
        made.inputs = tuple(spec["inputs"])
        made.pad_id = spec["pad_id"]
        made._files = read_companions(folder)
        made._take(read_tokenizer(folder), build(TextOptions, spec["options"], owner="text"))
        return made

    @classmethod
    def recognises(cls, values: Sequence[Any]) -> bool:
        """Return whether a column with these values looks like free text: several words, mostly different, not codes."""
        return free_text.recognises(values)

    @classmethod
    def example(cls, signal_NS: FloatArray, seed: int) -> list[Any]:
        """Render numbers as texts: one word for each number's size, said twice, among words that mean nothing."""
        return list(free_text.example(signal_NS, seed))

    def _head(self, raw: str) -> str:
        limit = self.options.max_chars
        if len(raw) <= limit:
            return raw
        return raw[:limit] if self.options.truncation_side == "right" else raw[-limit:]

    def _with_unseen(self, row: Encoded, unseen: int) -> Encoded:
        spans_T2 = row.spans_T2
        if self.options.truncation_side == "left":
            spans_T2 = np.where(spans_T2[:, 1:] > 0, spans_T2 + unseen, spans_T2)
        return Encoded(inputs=row.inputs, spans_T2=spans_T2, dropped=row.dropped + unseen)

    def _cut(self, found: Any, spans: bool) -> Encoded:
        frame, limit = self._frame, self.options.max_length
        total = len(found)
        dropped = max(0, total - limit)
        if not total:  # a tokenizer without special tokens may find nothing in a text of odd characters
            return self._row(np.asarray([self.pad_id], dtype=np.int32), np.zeros((1, 2), dtype=np.int32), 0)
        kept = slice(None)
        if dropped:
            first, last = len(frame.before), total - len(frame.after)
            keeps_start = self.options.truncation_side == "right"
            kept = slice(first, last - dropped) if keeps_start else slice(first + dropped, last)
        ids_T = np.asarray(found.ids[kept], dtype=np.int32)
        spans_T2 = (
            np.asarray(found.offsets[kept], dtype=np.int32).reshape(-1, 2) if spans else np.zeros((len(ids_T), 2), np.int32)
        )
        if dropped:
            before, after = np.asarray(frame.before, dtype=np.int32), np.asarray(frame.after, dtype=np.int32)
            ids_T = np.concatenate([before, ids_T, after])
            spans_T2 = np.pad(spans_T2, ((len(before), len(after)), (0, 0)))
        return self._row(ids_T, spans_T2, dropped)

    def _row(self, ids_T: Array, spans_T2: Array, dropped: int) -> Encoded:
        inputs = {"input_ids": ids_T}
        if "token_type_ids" in self.inputs:
            inputs["token_type_ids"] = self._types(len(ids_T))
        return Encoded(inputs=inputs, spans_T2=spans_T2, dropped=dropped)

    def _types(self, length: int) -> Array:
        frame = self._frame
        types_T = np.full(length, frame.body_type, dtype=np.int32)
        if length >= frame.size:
            types_T[: len(frame.before)] = frame.before_types
            types_T[length - len(frame.after) :] = frame.after_types
        return types_T


def unreadable(raw: object) -> str:
    """Return why a value is no text that any tokenizer takes, or an empty string."""
    if raw is None:
        return "there is no text"
    if not isinstance(raw, str):
        return f"text is expected, got {type(raw).__name__} ({str(raw)[:40]})"
    if not raw.strip():
        return "the text is empty"
    if not raw.isascii():
        try:
            raw.encode("utf-8")
        except UnicodeEncodeError as error:
            return f"the text holds half a character (a lone surrogate) at position {error.start}"
    return ""


def _portions(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield texts in portions of bounded size: a tokenizer holds some hundred bytes for each token of what it is given."""
    portion: list[str] = []
    held = 0
    for text in texts:
        portion.append(text)
        held += len(text)
        if held >= _CHARACTERS_AT_ONCE:
            yield portion
            portion, held = [], 0
    if portion:
        yield portion


def _frame(tokenizer: Tokenizer) -> _Frame:
    """Find what a tokenizer puts around every text, by giving it one that it does not lose."""
    for probe in _probes(tokenizer):
        found = tokenizer.encode(probe, add_special_tokens=True)
        bare = len(tokenizer.encode(probe, add_special_tokens=False))
        inside = [i for i, sequence in enumerate(found.sequence_ids) if sequence is not None]
        if inside and bare:
            break
    else:
        return _Frame((), (), (), (), 0)
    start, end = inside[0], inside[0] + bare
    return _Frame(
        before=tuple(found.ids[:start]),
        after=tuple(found.ids[end:]),
        before_types=tuple(found.type_ids[:start]),
        after_types=tuple(found.type_ids[end:]),
        body_type=found.type_ids[start],
    )


def _probes(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield texts, one of which the tokenizer will not lose; sorting a vocabulary takes longer than an answer."""
    yield from ("a", "0")
    yield from sorted(tokenizer.get_vocab(with_added_tokens=False))[:100]


def read_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of a folder.

    Raises:
        BaseError: There is no `tokenizer.json`, or it cannot be read.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise BaseError(Problem(what="the tokenizer is missing", where=str(path), fix="fetch or save the whole folder again"))
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the reader raises nothing narrower
        problem = Problem(
            what="the tokenizer cannot be read", where=str(path), got=str(error)[:300], fix="fetch the folder again"
        )
        raise BaseError(problem) from error


def read_companions(folder: Path) -> dict[str, JSON]:
    """Return the JSON files that belong to a tokenizer (file name -> content), without anything that names code."""
    found: dict[str, JSON] = {}
    for name in _COMPANIONS:
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            problem = Problem(
                what="a tokenizer file is not JSON", where=str(path), got=str(error)[:200], fix="fetch the folder again"
            )
            raise BaseError(problem) from error
        found[name] = (
            {key: value for key, value in content.items() if key != "auto_map"} if isinstance(content, dict) else content
        )
    return found
