"""How data are read and split."""

from __future__ import annotations

from typing import Annotated

from regraft.options import Field, options

Share = Annotated[float, Field(ge=0.0, lt=1.0)]


@options
class DataOptions:
    """How files are read, which rows may be lost, how rows are split."""

    delimiter: Annotated[str, Field(max_length=1)] | None = None
    """Character between fields of a delimited file; detected if not given."""

    encoding: str | None = None
    """Text encoding of a file ("utf-8", "cp1252"); detected if not given, and anything but UTF-8 must be confirmed here."""

    header: bool | None = None
    """Whether the first line of a delimited file names the columns; detected if not given."""

    valid_share: Share = 0.1
    """Share of the rows held out for validation when no validation data are given."""

    test_share: Share = 0.2
    """Share of the rows held out for the test when no test data are given."""

    grouped: bool = False
    """Whether rows of one target stay in one split: the target says which rows belong together. Tasks of pairs want it so."""

    lost_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    """Budget: share of rows that may be dropped (no label, no text, unreadable) before that is an error."""

    max_row_bytes: Annotated[int, Field(ge=1)] = 1_000_000
    """A longer row is bad: reported with its number, not read into memory whole where the format allows it."""
