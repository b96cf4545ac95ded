"""A dialogue of a row as one text: its messages one below the other, each behind the role of who speaks. No torch.

    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]  ->  user: Hi
                                                                                        assistant: Hello!

A raw value is a list of messages (as a Parquet file holds them), or its JSON text (in CSV and JSON lines). It is read by every
base that reads text. What is too long loses its oldest tokens, counted as those of a text are; a message that is cut in part
loses its beginning and so its role.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from regraft.errors import DataError, Problem
from regraft.modalities.modality import Modality
from regraft.modalities.text import Text, TextOptions, read_companions, read_tokenizer, unreadable
from regraft.options import JSON, build, options, to_json

if TYPE_CHECKING:
    from regraft.types import Encoded, FloatArray

_ROLE, _CONTENT = "role", "content"
_EXPECTED = '[{"role": "user", "content": "..."}, ...], or that as JSON text'
_LOOKED_AT = 100
_SHOWN = 40


@options
class DialogueOptions(TextOptions):
    """How dialogues become tokens."""

    truncation_side: Literal["left"] = "left"
    """Which end of a longer dialogue is cut off: the left one, where the oldest messages are."""


class Dialogue(Text):
    """Turn dialogues into tokens: those of the joined text (`joined`), of which spans count the characters.

    Args:
        text: How the base's tokenizer reads one text.
        options: How long.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> words = Tokenizer(models.WordLevel({"?": 0, "user": 1, ":": 2, "Hi": 3}, unk_token="?"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> row = Dialogue(Text(words, TextOptions()), DialogueOptions()).encode([[{"role": "user", "content": "Hi"}]])[0]
        >>> row.inputs["input_ids"].tolist(), row.spans_T2.tolist()
        ([1, 2, 3], [[0, 4], [4, 5], [6, 8]])
    """

    Options: ClassVar[type[Any]] = DialogueOptions
    name: ClassVar[str] = "dialogue"
    over: ClassVar[str] = "text"
    looks: bool = True  # so that a bad row is named before a vocabulary is learnt

    def __init__(self, text: Text, options: DialogueOptions) -> None:
        super().__init__(text.tokenizer, options, inputs=text.inputs, pad_id=text.pad_id, files=text.companions, copy=True)

    def problem(self, raw: object) -> str:
        """Return why a raw value cannot be encoded, naming the message, or an empty string."""
        return _problem(raw)

    @classmethod
    def unreadable(cls, raw: Any) -> str:
        """Return why a value can never be read as a dialogue, or an empty string."""
        return _problem(raw)

    def encode(self, raws: Sequence[Any], *, spans: bool = True) -> list[Encoded]:
        """Encode dialogues that have no `problem`, in order.

        Args:
            raws: Lists of messages, or their JSON text.
            spans: Whether to find the characters of the joined text that each token covers; without, all spans are (0, 0).

        Raises:
            DataError: One of them has a problem.
        """
        return super().encode([joined(raw) for raw in raws], spans=spans)

    def running_text(self, raw: Any) -> str:
        """Return what is said, without who says it."""
        return "\n".join(message[_CONTENT] for message in _messages(raw))

    def as_json(self, raw: Any) -> JSON:
        """Return a dialogue as a list of its messages, with what is read of them."""
        return [{_ROLE: message[_ROLE], _CONTENT: message[_CONTENT]} for message in _messages(raw)]

    def shortened(self, raw: Any, limit_bytes: int) -> JSON:
        """Return a dialogue, of one that takes more room than this only the newest messages, the last one cut if it must be."""
        kept: list[JSON] = []
        for message in reversed(self.as_json(raw)):
            limit_bytes -= len(json.dumps(message, ensure_ascii=False).encode())
            if limit_bytes < 0 and kept:
                break
            kept.insert(0, message)
        if limit_bytes < 0 and len(kept) == 1:
            room = max(1, (limit_bytes + len(kept[0][_CONTENT].encode())) // 4)
            kept = [{_ROLE: kept[0][_ROLE], _CONTENT: kept[0][_CONTENT][:room]}]
        return kept

    @classmethod
    def load(cls, folder: Path, spec: JSON) -> Self:
        """Rebuild from `save`d files and `spec`; encodes the same bytes as before."""
        made = cls.__new__(cls)
        made.inputs = tuple(spec["inputs"])
        made.pad_id = spec["pad_id"]
        made._files = read_companions(folder)
        made._take(read_tokenizer(folder), build(DialogueOptions, spec["options"], owner=cls.name))
        return made

    @classmethod
    def inner(cls, raws: Sequence[Any], columns: Sequence[str]) -> list[Any]:
        """Return dialogues as texts: what a vocabulary is learnt from."""
        return [joined(raw) for raw in raws]

    @classmethod
    def around(cls, made: Modality, columns: Sequence[str]) -> Modality:
        """Return how dialogues are read, from how the base reads one text."""
        if not isinstance(made, Text):
            raise TypeError(f"a dialogue is made of text, not {type(made).__name__}")
        wanted: dict[str, JSON] = {**to_json(made.options), "truncation_side": DialogueOptions().truncation_side}
        return cls(made, build(DialogueOptions, wanted, owner=cls.name))

    @classmethod
    def recognises(cls, values: Sequence[Any]) -> bool:
        """Return whether nearly all values are dialogues, as lists or as JSON text."""
        seen = values[:_LOOKED_AT]
        return bool(seen) and sum(not _problem(value) for value in seen) >= 0.9 * len(seen)

    @classmethod
    def example(cls, signal_NS: FloatArray, seed: int) -> list[Any]:
        """Render numbers as dialogues: two sides say them, in other words."""
        texts = zip(*(super(Dialogue, cls).example(signal_NS, seed + place) for place in range(2)), strict=True)
        return [[{_ROLE: "user", _CONTENT: one}, {_ROLE: "assistant", _CONTENT: two}] for one, two in texts]


def joined(raw: Any) -> str:
    """Return a dialogue as one text: a line a message, who speaks before it.

    Args:
        raw: A list of messages with "role" and "content", both texts, or its JSON text. Other keys are not read.

    Raises:
        DataError: It is something else.

    Example:
        >>> joined('[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]').splitlines()
        ['user: Hi', 'assistant: Hello!']
    """
    if reason := _problem(raw):
        fix = "mend the row, or take it out"
        raise DataError(Problem(what="a dialogue cannot be read", got=reason, expected=_EXPECTED, fix=fix))
    return "\n".join(f"{message[_ROLE]}: {message[_CONTENT]}" for message in _messages(raw))


def _messages(raw: Any) -> Sequence[Any]:
    found: Sequence[Any] = json.loads(raw) if isinstance(raw, str) else raw
    return found


def _problem(raw: object) -> str:
    if raw is None:
        return "there is no dialogue"
    try:
        found = _messages(raw)
    except (ValueError, RecursionError):
        return f"the text is no dialogue in JSON, {_EXPECTED} is expected: {str(raw)[:_SHOWN]!r}"
    if not isinstance(found, list | tuple):
        return f"a list of messages is expected, {_EXPECTED}, got {type(found).__name__} ({str(found)[:_SHOWN]})"
    if not found:
        return "the dialogue has no messages"
    for number, message in enumerate(found, start=1):
        if reason := _wrong(message):
            return f"message {number} of {len(found)}: {reason}"
    if not any(message[_CONTENT].strip() for message in found):
        return "every message of the dialogue is empty"
    return ""


def _wrong(message: object) -> str:
    """Return why something is no message, or an empty string."""
    if not isinstance(message, Mapping):
        got = f"{type(message).__name__} ({str(message)[:_SHOWN]})"
        return f'an object with "{_ROLE}" and "{_CONTENT}" is expected, got {got}'
    for key in (_ROLE, _CONTENT):
        if key not in message:
            return f'"{key}" is missing, got {", ".join(map(repr, message))[:80] or "nothing"}'
        value = message[key]
        if not isinstance(value, str):
            return f'"{key}" is expected to be a text, got {type(value).__name__} ({str(value)[:_SHOWN]})'
        if value.strip() and (reason := unreadable(value)):
            return f'"{key}": {reason}'
    return "" if message[_ROLE].strip() else f'"{_ROLE}" is empty'


__all__ = ["Dialogue", "DialogueOptions", "joined"]
