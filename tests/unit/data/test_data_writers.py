"""Writers: exact round trips, whole files or none, and what is said when the disk gives up."""

from __future__ import annotations

import csv
import datetime
import errno
import gzip
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regraft.data.formats import reader_for, writer_for
from regraft.data.options import DataOptions
from regraft.data.write import StreamWriter
from regraft.errors import DataError, MachineError

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
QUOTED = st.text(st.sampled_from("\",;\t|\n\r 'ax\ufeff\u2028é"), max_size=8)
ANY = TEXT | QUOTED


def written(path: Path, rows: pa.Table | list[dict]) -> Path:
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    with writer_for(path) as writer:
        for batch in table.to_batches(max_chunksize=3):
            writer.write(batch)
        if not table.num_rows:
            writer.write(pa.RecordBatch.from_pylist([], schema=table.schema))
    return path


def read(path: Path, **options: object) -> list[dict]:
    return [row for chunk in reader_for(path, DataOptions(**options)).chunks(4) for row in chunk.rows.to_pylist()]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(ANY, ANY), min_size=1, max_size=12), suffix=st.sampled_from([".csv", ".tsv", ".csv.gz"]))
def test_any_strings_survive_a_csv_round_trip(tmp_path, rows, suffix):
    path = written(tmp_path / f"a{suffix}", [{"first": a, "second": b} for a, b in rows])
    expected = [{"first": a, "second": b} for a, b in rows]
    tab = "\t" if ".tsv" in suffix else ","
    assert read(path, header=True, delimiter=tab, encoding="utf-8") == expected
    raw = gzip.decompress(path.read_bytes()) if suffix.endswith("gz") else path.read_bytes()
    independent = list(csv.reader(io.StringIO(raw.decode(), newline=""), delimiter=tab))
    assert [tuple(row) for row in independent[1:]] == rows


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(ANY, st.none() | st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=9))
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst", "a.parquet"])
def test_any_values_survive_json_and_parquet(tmp_path, name, rows):
    expected = [{"text": a, "number": b} for a, b in rows]
    table = pa.Table.from_pylist(expected, schema=pa.schema([("text", pa.string()), ("number", pa.int64())]))
    got = read(written(tmp_path / name, table))
    assert got == expected


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fractions_read_back_exactly(tmp_path, value):
    for name in ("a.csv", "a.jsonl"):
        got = read(written(tmp_path / name, [{"p": value, "q": "x"}]), header=True)[0]["p"]
        assert math.copysign(1.0, float(got)) == math.copysign(1.0, value)
        assert float(got) == value
    assert (tmp_path / "a.csv").read_text().splitlines()[1] == f"{value!r},x"


def test_csv_spells_every_type(tmp_path):
    row = {"t": True, "n": None, "i": 3, "f": 0.1, "d": datetime.date(2026, 1, 2), "l": [1, 2], "s": "x"}
    path = written(tmp_path / "a.csv", [row])
    assert path.read_text() == 't,n,i,f,d,l,s\ntrue,,3,0.1,2026-01-02,"[1, 2]",x\n'


def test_json_has_no_nan_and_no_bytes(tmp_path):
    assert written(tmp_path / "a.jsonl", [{"p": math.nan, "q": "é"}]).read_text() == '{"p": null, "q": "é"}\n'
    with pytest.raises(DataError, match=r"a text format cannot hold bytes\n  where: b.jsonl, column 'p'"):
        written(tmp_path / "b.jsonl", [{"p": b"x"}])
    assert not (tmp_path / "b.jsonl").exists()
    with pytest.raises(DataError, match=r"where: c.csv, column 'inside'"):
        written(tmp_path / "c.csv", [{"inside": [{"deep": b"x"}]}])


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_maps_are_written_as_pairs(tmp_path, name):
    table = pa.table({"m": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64()))})
    assert '[["k", 1]]' in written(tmp_path / name, table).read_text().replace('""', '"')


def test_parquet_keeps_types_and_is_zstd(tmp_path):
    table = pa.table({"a": pa.array([1, 2], pa.int8()), "b": ["x", None]})
    path = written(tmp_path / "a.parquet", table)
    assert pq.read_table(path).equals(table)
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet", "a.jsonl"])
def test_a_file_without_rows_has_its_columns(tmp_path, name):
    table = pa.table({"a": pa.array([], pa.string()), "b": pa.array([], pa.string())})
    path = written(tmp_path / name, table)
    if name != "a.jsonl":
        assert reader_for(path, DataOptions()).columns == ["a", "b"]
    with pytest.raises(ValueError, match="nothing was written"), writer_for(tmp_path / f"none-{name}"):
        pass
    assert [child.name for child in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl.zst", "a.parquet"])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, name):
    path = written(tmp_path / name, [{"a": "old"}])
    before = path.read_bytes()
    batch = pa.RecordBatch.from_pylist([{"a": "new"}])
    with pytest.raises(KeyError, match="stop"), writer_for(path) as writer:  # noqa: PT012 - the block is what is tested
        writer.write(batch)
        raise KeyError("stop")
    assert path.read_bytes() == before
    with writer_for(path) as writer:
        writer.write(batch)
        assert path.read_bytes() == before
    assert read(path, header=True) == [{"a": "new"}]
    assert [child.name for child in tmp_path.iterdir()] == [name]


def test_same_rows_same_bytes(tmp_path):
    for name in ("a.csv.gz", "b.csv.gz"):
        written(tmp_path / name, [{"a": "x" * i} for i in range(100)])
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()


def test_another_schema_is_refused(tmp_path):
    with writer_for(tmp_path / "a.csv") as writer:
        writer.write(pa.RecordBatch.from_pylist([{"a": "x"}]))
        with pytest.raises(ValueError, match="cannot follow"):
            writer.write(pa.RecordBatch.from_pylist([{"b": "x"}]))


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl.zst", "a.parquet"])
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "the disk is full: no space left"),
        (errno.EDQUOT, "disk quota exceeded"),
        (errno.EIO, "the disk refuses to write"),
    ],
)
def test_full_disk_says_what_to_do(tmp_path, monkeypatch, name, code, said):
    def full(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError) as caught:
        written(tmp_path / name, [{"a": "x"}])
    assert said in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)
    assert "another" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_really_fails_in_the_middle(tmp_path):
    code = f"""
import resource, signal, os, pathlib, pyarrow as pa
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
from regraft.data.formats import writer_for
from regraft.errors import MachineError
for name in ("a.csv", "a.csv.gz", "a.jsonl.zst", "a.parquet"):
    try:
        with writer_for(pathlib.Path({str(tmp_path)!r}) / name) as writer:
            for i in range(100):
                writer.write(pa.RecordBatch.from_pylist([{{"a": os.urandom(10_000).hex()}}]))
    except MachineError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("the disk is full: file size limit exceeded") == 4
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path):
    rows = [{"a": "x"}]
    with pytest.raises(DataError, match=r"the folder to write to does not exist(.|\n)*mkdir -p"):
        written(tmp_path / "no" / "a.csv", rows)
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(DataError, match="a folder stands where the file should go"):
        written(tmp_path / "b.csv", rows)
    with pytest.raises(DataError, match=r"cannot write this kind of file(.|\n)*'.xlsx'(.|\n)*\.csv, \.tsv, \.jsonl"):
        writer_for(tmp_path / "a.xlsx")
    with pytest.raises(DataError, match="compressed inside"):
        writer_for(tmp_path / "a.parquet.gz")


def test_stream_writer_writes_json_lines():
    out = io.StringIO()
    with StreamWriter(out) as writer:
        writer.write(pa.RecordBatch.from_pylist([{"a": "x\n", "p": 0.1}, {"a": None, "p": 1.0}]))
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [{"a": "x\n", "p": 0.1}, {"a": None, "p": 1.0}]
    assert not out.closed
