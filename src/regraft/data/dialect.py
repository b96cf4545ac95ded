"""Find out how a delimited file is laid out: which character stands between fields, and whether the first line names them."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from regraft.errors import DataError, Problem

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_SAMPLE_RECORDS = 200
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")


def delimiter_name(delimiter: str) -> str:
    """Return what people call a delimiter."""
    return DELIMITERS.get(delimiter, f"'{delimiter}'")


def records(text: str, delimiter: str, newline: str, complete: bool) -> list[list[str]]:
    """Return the first records of a text, leniently; the last one is left out when the text may have cut it.

    Args:
        text: The beginning of a file.
        delimiter: Character between fields.
        newline: Character that ends a line.
        complete: Whether the text is the whole file.
    """
    found: list[list[str]] = []
    reader = csv.reader(io.StringIO(text, newline=newline), delimiter=delimiter)
    try:
        for fields in reader:
            if fields:
                found.append(fields)
            if len(found) > _SAMPLE_RECORDS:
                break
    except csv.Error:
        return found
    if len(found) > _SAMPLE_RECORDS or (not complete and len(found) > 1):
        found.pop()
    return found


def find_delimiter(text: str, newline: str, complete: bool, path: Path) -> tuple[str, str]:
    """Return the delimiter of a file and the sentence that says how it was found.

    The candidate wins for which most records have as many fields as the first one.

    Raises:
        DataError: Two candidates fit equally well.
    """
    scores: dict[str, tuple[float, int]] = {}
    for delimiter in DELIMITERS:
        found = records(text, delimiter, newline, complete)
        width = len(found[0]) if found else 0
        if width > 1:
            scores[delimiter] = (sum(len(fields) == width for fields in found) / len(found), width)
    good = {delimiter: score for delimiter, score in scores.items() if score[0] > 0.5}
    if not good:
        return ",", "one column: no delimiter stands equally often in the rows"
    best = max(share for share, _ in good.values())
    winners = [delimiter for delimiter, (share, _) in good.items() if share == best]
    if len(winners) > 1:
        got = " or ".join(f"{delimiter_name(d)} ({good[d][1]} fields)" for d in winners)
        raise DataError(
            Problem(
                what="the delimiter is ambiguous: several fit every row equally well",
                where=str(path),
                got=got,
                fix=f"choose with data.delimiter (--set 'data.delimiter={winners[0]}')",
            )
        )
    winner = winners[0]
    return winner, f"delimiter {delimiter_name(winner)}: {good[winner][1]} fields in {best:.0%} of the first rows"


def find_header(found: Sequence[Sequence[str]]) -> tuple[bool, str]:
    """Return whether the first record names the columns, and the sentence that says why.

    Args:
        found: The first records of a file, the first of them the one in question.
    """
    first, rest = found[0], [fields for fields in found[1:] if len(fields) == len(found[0])]
    number = next((cell for cell in first if _NUMBER.fullmatch(cell.strip())), None)
    if number is not None:
        return False, f"the first row holds the number {number.strip()}"
    long = next((cell for cell in first if len(cell) > 100 or "\n" in cell), None)
    if long is not None:
        return False, f"the first row holds a value of {len(long)} characters"
    for i, cell in enumerate(first):
        below = Counter(fields[i] for fields in rest)
        if cell.strip() and below[cell] and (below[cell] > 1 or len(below) < len(rest)):
            return False, f"'{cell}' in the first row stands in {below[cell]} more rows of the same column"
    return True, "the first row holds names: no number, no long text, no value that comes again"
