"""Protocol buffers by hand: the fields of a message, read from its bytes with bounds on depth, number and length.

A file from somebody else is looked at before the library that was written for speed opens it. The encoding is that of
https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from typing import Any

Messages = Mapping[str, Mapping[int, tuple[str, str]]]
"""Message -> field number -> (name, kind): "int", "string", "bytes" (where they lie), or the message that the field holds."""

_MOST_FIELDS = 20_000_000
_DEEPEST = 64
_LONGEST_TEXT = 1 << 16
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Walk:
    """Read messages of protocol buffers.

    Args:
        content: The bytes of the file.
        messages: What is understood.
    """

    def __init__(self, content: mmap.mmap | bytes, messages: Messages) -> None:
        self.content = content
        self.messages = messages
        self.left = _MOST_FIELDS

    def message(self, kind: str, start: int, stop: int, depth: int) -> dict[str, list[Any]]:
        """Return the fields of a message by name, each with all of its values: a field that comes twice is merged."""
        if depth > _DEEPEST:
            raise ValueError(f"messages are nested more than {_DEEPEST} deep")
        known = self.messages[kind]
        found: dict[str, list[Any]] = {}
        for number, wire, first, last in self._fields(start, stop):
            if number not in known:
                continue
            name, what = known[number]
            values = found.setdefault(name, [])
            if what == "int":
                values += self._numbers(wire, first, last)
            elif wire != _BYTES:
                if what != "bytes" or wire != _FIXED32:
                    raise ValueError(f"the field '{name}' of a {kind.lower()} has another type")
                values.append((first, last))
            elif what == "bytes":
                values.append((first, last))
            elif what == "string":
                values.append(self._text(first, last))
            else:
                values.append(self.message(what, first, last, depth + 1))
        return found

    def _fields(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield (number, wire type, start, stop) of the fields in a range; a varint's "start" is its value."""
        place = start
        while place < stop:
            self.left -= 1
            if self.left < 0:
                raise ValueError(f"it has more than {_MOST_FIELDS} fields")
            key, place = self._varint(place, stop)
            number, wire = key >> 3, key & 7
            if wire == _VARINT:
                value, place = self._varint(place, stop)
                yield number, wire, value, place
                continue
            if wire == _BYTES:
                size, place = self._varint(place, stop)
            elif wire in {_FIXED64, _FIXED32}:
                size = 8 if wire == _FIXED64 else 4
            else:
                raise ValueError(f"there is a field of the wire type {wire}")
            if size > stop - place:
                raise ValueError("a field is longer than what holds it")
            yield number, wire, place, place + size
            place += size

    def _varint(self, place: int, stop: int) -> tuple[int, int]:
        if place < stop and (byte := self.content[place]) < 128:  # as almost all are
            return byte, place + 1
        value = 0
        for shift in range(0, 70, 7):
            if place >= stop:
                raise ValueError("it ends in the middle of a number")
            byte = self.content[place]
            place += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, place
        raise ValueError("a number has more than ten bytes")

    def _numbers(self, wire: int, first: int, last: int) -> list[int]:
        """Return the number of a field, or the numbers where they are packed."""
        if wire == _VARINT:
            return [_signed(first)]
        if wire != _BYTES:
            raise ValueError("a whole number has another type")
        values = []
        while first < last:
            value, first = self._varint(first, last)
            self.left -= 1
            values.append(_signed(value))
        if self.left < 0:
            raise ValueError(f"it has more than {_MOST_FIELDS} fields")
        return values

    def _text(self, first: int, last: int) -> str:
        if last - first > _LONGEST_TEXT:
            raise ValueError(f"a name is longer than {_LONGEST_TEXT} bytes")
        return self.content[first:last].decode("utf-8")


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
