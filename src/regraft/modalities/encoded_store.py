"""Encoded rows kept between runs: one Arrow file a split, found by its content, read through a memory map.

The key is the digest of the preprocessing and of every row in its order. The file is an ordinary Arrow IPC file with a line a
row: the row's digest, and a list for each input; any tool reads it. Its name carries the SHA-256 of its content, computed while
it was written and again before it is used, so that a flipped byte is found.

Encoding in worker processes was measured and left out. 20,000 texts, median 22 words, the tokenizer of MiniLM, on two cores
that others used too: batched calls on one thread 8,400 rows/s, on two (TOKENIZERS_PARALLELISM) 12,800; two worker processes
6,700 with their start and 9,800 without. What is found here comes at 480,000 rows/s; the digests cost 1.6 % of the encoding.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from regraft.data.kept import MB, NewFile, file_name, free_disk_bytes, prune, touch, write_about
from regraft.types import Array

TOKENS = "tokens"
# Below, encoding takes a quarter of a second: as much as a slow disk may take to make the file durable.
FEWEST_ROWS = 2000
_SUFFIX = ".arrow"
_FORMAT = 1
_META = b"regraft"
_READ_BYTES = 4 * 2**20
_MARK = 32


@dataclass(frozen=True)
class StoredRows:
    """Rows as `EncodedRows` holds them.

    Args:
        lengths: Positions of each row (N,).
        flat: Input name -> all positions end to end (P, ...); a memory map where they were read.
        dropped: Positions that were cut off.
        truncated_rows: Rows that were cut.
    """

    lengths: Array
    flat: Mapping[str, Array]
    dropped: int
    truncated_rows: int


class _Unusable(Exception):  # noqa: N818 - never leaves this file
    """A file that is not what its name says."""


class EncodedStore:
    """Keep encoded rows of one preprocessing.

    Args:
        folder: The cache folder.
        budget_bytes: What may lie in it at most; the least recently used makes room.
        preprocessing: Digest of the modality (`digests.modality_digest`).
        note: Called with one line when something was damaged or could not be kept.
        about: Name of the modality and the base, for people.
        fewest_rows: Splits with fewer rows are always encoded anew.
    """

    def __init__(
        self,
        folder: Path,
        budget_bytes: int,
        preprocessing: str,
        note: Callable[[str], None] = lambda _: None,
        *,
        about: str = "",
        fewest_rows: int = FEWEST_ROWS,
    ) -> None:
        self.folder, self.budget_bytes, self.fewest_rows = folder, budget_bytes, fewest_rows
        self._preprocessing, self._note, self._about = preprocessing, note, about

    def pays(self, rows: int) -> bool:
        """Return whether so many rows are worth a file."""
        return self.budget_bytes > 0 and rows >= self.fewest_rows

    def open(self, digests_N16: Array) -> StoredRows | None:
        """Return the rows with these digests, verified, or None where they have to be encoded."""
        place = self._place(digests_N16)
        try:
            names = sorted((path.name for path in place.iterdir() if path.suffix == _SUFFIX), reverse=True)
        except OSError:
            return None
        for name in names:
            try:
                found = _read(place / name, digests_N16)
            except FileNotFoundError:  # pruned meanwhile
                continue
            except (_Unusable, OSError) as error:
                self._note(f"cache: {place / name} is left out, {error}; its rows are encoded again")
                with contextlib.suppress(OSError):
                    (place / name).unlink()
                continue
            touch(place / name)
            return found
        return None

    def keep(self, digests_N16: Array, rows: StoredRows) -> None:
        """Keep rows for the next run; a disk that refuses costs a note, not the run."""
        size = sum(values.nbytes for values in rows.flat.values()) + 24 * len(rows.lengths)
        if any(values.dtype.hasobject for values in rows.flat.values()) or size > self.budget_bytes:
            return
        prune(self.folder, max_bytes=self.budget_bytes - size)
        if size > free_disk_bytes(self.folder):
            self._note(f"cache: the encoded rows are not kept: the disk of {self.folder} has no {size // MB:,} MB to spare")
            return
        place = self._place(digests_N16)
        try:
            _write(place, digests_N16, rows)
        except OSError as error:
            self._note(f"cache: the encoded rows are not kept: {error.strerror or error}")
            return
        key = {"kind": TOKENS, "preprocessing": self._preprocessing, "rows": len(rows.lengths), "about": self._about}
        write_about(place, (json.dumps(key, indent=1, ensure_ascii=False) + "\n").encode())

    def _place(self, digests_N16: Array) -> Path:
        key = hashlib.sha256(f"{_FORMAT} {self._preprocessing} {digests_N16.shape} ".encode())
        key.update(np.ascontiguousarray(digests_N16).data)
        return self.folder / TOKENS / key.hexdigest()[:32]


class _HashedFile:
    """A file that is hashed while it is written."""

    closed = False

    def __init__(self, new: NewFile) -> None:
        self._new = new
        self.digest = hashlib.sha256()

    def write(self, content: Any) -> int:
        view = memoryview(content)
        self.digest.update(view)
        self._new.write(view)
        return view.nbytes

    def flush(self) -> None:
        pass


def _write(place: Path, digests_N16: Array, rows: StoredRows) -> None:
    import pyarrow as pa

    facts = {
        "format": _FORMAT,
        "dropped": rows.dropped,
        "truncated_rows": rows.truncated_rows,
        "inputs": {name: {"shape": values.shape[1:], "dtype": values.dtype.str} for name, values in rows.flat.items()},
    }
    digests = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(16), len(rows.lengths), [None, pa.py_buffer(np.ascontiguousarray(digests_N16))]
    )
    offsets = pa.array(np.concatenate([[0], np.cumsum(rows.lengths)]), type=pa.int64())
    columns = [digests, *(pa.LargeListArray.from_arrays(offsets, _values(values)) for values in rows.flat.values())]
    schema = pa.schema(
        [pa.field(name, column.type) for name, column in zip(["row_digest", *rows.flat], columns, strict=True)],
        metadata={_META: json.dumps(facts).encode()},
    )
    new = NewFile(place)
    file = _HashedFile(new)
    try:
        # One batch, so that an input of all rows lies in one piece; its buffers are written from where they are.
        with pa.ipc.new_file(pa.PythonFile(cast(BinaryIO, file), mode="w"), schema) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    except BaseException:
        new.discard()
        raise
    new.publish(file_name(_SUFFIX, file.digest.hexdigest()[:_MARK]))
    new.file.close()


def _values(values: Array) -> Any:
    """Return positions (P, ...) as an Arrow array without a copy: numbers, or lists of fixed size of numbers."""
    import pyarrow as pa

    plain = values.view(np.uint8) if values.dtype == np.bool_ else values
    numbers = pa.Array.from_buffers(
        pa.from_numpy_dtype(plain.dtype), plain.size, [None, pa.py_buffer(np.ascontiguousarray(plain))]
    )
    width = int(np.prod(values.shape[1:]))
    return numbers if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(numbers, width)


def _read(path: Path, digests_N16: Array) -> StoredRows:
    import pyarrow as pa

    _check_content(path)
    try:
        with pa.memory_map(str(path)) as file:
            batch = pa.ipc.open_file(file).get_batch(0)
        facts = json.loads(batch.schema.metadata[_META])
        if facts["format"] != _FORMAT:
            raise _Unusable(f"its format is {facts['format']}")
        stored = np.frombuffer(batch.column(0).buffers()[1], dtype=np.uint8).reshape(-1, 16)[: batch.num_rows]
        flat = {}
        offsets = np.zeros(1, dtype=np.int64)
        for number, (name, form) in enumerate(facts["inputs"].items(), start=1):
            column = batch.column(number)
            offsets = column.offsets.to_numpy(zero_copy_only=True)
            numbers = column.values if not form["shape"] else column.values.flatten()
            array = numbers.to_numpy(zero_copy_only=True).view(form["dtype"])
            flat[name] = array.reshape(-1, *form["shape"])
    except (pa.ArrowException, KeyError, IndexError, TypeError, ValueError) as error:
        raise _Unusable(f"it cannot be read ({error})") from error
    if not np.array_equal(stored, digests_N16):
        raise _Unusable("it holds other rows")
    return StoredRows(lengths=np.diff(offsets), flat=flat, dropped=facts["dropped"], truncated_rows=facts["truncated_rows"])


def _check_content(path: Path) -> None:
    # Through a buffer and not through the map: what is only looked at shall not count as this process's memory.
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while part := file.read(_READ_BYTES):
            digest.update(part)
    if digest.hexdigest()[:_MARK] != path.stem.partition("-")[2]:
        raise _Unusable("its content is not what was written")
