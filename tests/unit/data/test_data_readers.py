"""Readers: what they find out, what they give, and every way in which a file can be wrong, by the text of the error."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from regraft.data.formats import reader_for
from regraft.data.options import DataOptions
from regraft.data.reader import Reader
from regraft.data.streams import LongLine, text_lines
from regraft.errors import DataError

OPTIONS = DataOptions()
ROWS = [{"text": f"mail number {i}", "label": "spam" if i % 3 else "ham"} for i in range(50)]


def made(path: Path, content: str | bytes, encoding: str = "utf-8") -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def everything(reader: Reader, chunk_rows: int = 7) -> tuple[list[dict], dict[int, object]]:
    rows, bad = [], {}
    for chunk in reader.chunks(chunk_rows):
        assert chunk.rows.num_rows <= chunk_rows
        assert chunk.rows.schema == reader.schema
        assert chunk.first_row == len(rows) + 1
        assert chunk.source == reader.path.name
        bad.update({chunk.first_row + i: problem for i, problem in chunk.bad.items()})
        rows += chunk.rows.to_pylist()
    return rows, bad


def refused(path: Path, options: DataOptions = OPTIONS) -> str:
    with pytest.raises(DataError) as caught:
        reader_for(path, options)
    assert str(path) in str(caught.value)
    return str(caught.value)


def as_csv(rows: list[dict], delimiter: str = ",") -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def write_format(path: Path) -> Path:
    table = pa.Table.from_pylist(ROWS)
    name = path.name
    packed = {".gz": gzip.compress, ".zst": lambda raw: pa.Codec("zstd").compress(raw, asbytes=True)}.get(path.suffix, bytes)
    if ".csv" in name or ".tsv" in name:
        path.write_bytes(packed(as_csv(ROWS, "\t" if ".tsv" in name else ",").encode()))
    elif ".jsonl" in name:
        path.write_bytes(packed("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    elif ".parquet" in name:
        pq.write_table(table, path, row_group_size=20)
    else:
        kind = pa.ipc.new_stream if ".arrows" in name else pa.ipc.new_file
        with pa.OSFile(str(path), "wb") as sink, kind(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=20)
    return path


FORMATS = [
    "a.csv",
    "a.tsv",
    "a.jsonl",
    "a.parquet",
    "a.arrow",
    "a.arrows",
    "a.csv.gz",
    "a.csv.zst",
    "a.tsv.gz",
    "a.jsonl.gz",
    "a.jsonl.zst",
]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows_in_order(tmp_path, name):
    reader = reader_for(write_format(tmp_path / name), OPTIONS)
    assert reader.columns == ["text", "label"]
    for chunk_rows in (1, 7, 1000):
        assert everything(reader, chunk_rows) == (ROWS, {})
    assert reader.notes


@pytest.mark.parametrize(("delimiter", "said"), [(",", "comma"), (";", "semicolon"), ("\t", "tab"), ("|", "bar")])
def test_delimiter_is_found_and_stated(tmp_path, delimiter, said):
    rows = [
        {"text": f"one, two; three {i}" if delimiter in "\t|" else f"plain {i}", "label": "x", "more": "1,5"} for i in range(9)
    ]
    reader = reader_for(made(tmp_path / "a.csv", as_csv(rows, delimiter)), OPTIONS)
    assert everything(reader)[0] == rows
    assert f"delimiter {said}: 3 fields in 100% of the first rows" in reader.notes


def test_ambiguous_delimiter_is_an_error(tmp_path):
    text = refused(made(tmp_path / "a.csv", "1,5;2\n1,5;2\n3,5;4\n"))
    assert "the delimiter is ambiguous" in text
    assert "comma (2 fields) or semicolon (2 fields)" in text
    assert "data.delimiter=," in text
    reader = reader_for(tmp_path / "a.csv", DataOptions(delimiter=";"))
    assert everything(reader)[0][0] == {"column_1": "1,5", "column_2": "2"}


@pytest.mark.parametrize(
    ("content", "header", "why"),
    [
        ("text,label\nhello there,ham\n", True, "the first row holds names"),
        ("hello there,1\nbye,0\n", False, "the first row holds the number 1"),
        ("hello there,spam\nbye,ham\nwell,spam\nagain,ham\n", False, "'spam' in the first row stands in 1 more rows"),
        (f"{'long ' * 40},ham\nbye,spam\n", False, "the first row holds a value of 200 characters"),
    ],
)
def test_header_is_found_and_stated(tmp_path, content, header, why):
    reader = reader_for(made(tmp_path / "a.csv", content), OPTIONS)
    assert (reader.columns == ["text", "label"]) is header
    assert (reader.columns == ["column_1", "column_2"]) is not header
    assert any(why in note for note in reader.notes)
    assert len(everything(reader)[0]) == content.count("\n") - header


def test_header_option_wins(tmp_path):
    path = made(tmp_path / "a.csv", "text,label\nhello,ham\n")
    assert len(everything(reader_for(path, DataOptions(header=False)))[0]) == 2
    assert reader_for(path, DataOptions(header=False)).columns == ["column_1", "column_2"]


@pytest.mark.parametrize(
    ("encoding", "said"),
    [("utf-8", "UTF-8"), ("utf-8-sig", "UTF-8, from its byte order mark"), ("utf-16", "UTF-16"), ("utf-16-le", "zero bytes")],
)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_unicode_encodings_are_read(tmp_path, encoding, said, name):
    rows = [{"text": f"Grüße, 世界 {i} 😀", "label": "ä"} for i in range(30)]
    content = as_csv(rows) if name == "a.csv" else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    reader = reader_for(made(tmp_path / name, content, encoding), OPTIONS)
    assert everything(reader) == (rows, {})
    assert any(said in note for note in reader.notes)


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("cp1252", "Schöne Grüße aus Köln – “très bien” für 5 €"),
        ("latin-1", "Grüße aus Köln; très bien; mañana"),
        ("cp1251", "Привет как дела сегодня в Москве"),
        ("koi8-r", "Привет как дела сегодня в Москве"),
        ("shift_jis", "こんにちは、お元気ですか。カタカナ"),
        ("euc_jp", "こんにちは、お元気ですか。日本語"),
        ("euc_kr", "안녕하세요 오늘 날씨가 좋습니다"),
        ("gb18030", "今天天气很好，我们去公园散步吧。"),
    ],
)
def test_other_encodings_are_named_and_must_be_confirmed(tmp_path, encoding, words):
    content = f"text,label\n{words},ham\n{words} 2,spam\n"
    path = made(tmp_path / "a.csv", content, encoding)
    detected = "cp1252" if encoding == "latin-1" else encoding
    text = refused(path)
    assert f"the file is not UTF-8; it looks like {detected}" in text
    assert ("latin-1 reads the same" in text) is (encoding == "latin-1")
    assert "line 2" in text
    assert f"data.encoding={detected}" in text
    rows, bad = everything(reader_for(path, DataOptions(encoding=detected)))
    assert not bad
    assert rows[0]["text"] == words


def test_unknown_encoding_offers_the_nearest(tmp_path):
    with pytest.raises(DataError, match=r"there is no text encoding 'cp1253x'(.|\n)*did you mean .*'cp1253'"):
        reader_for(made(tmp_path / "a.csv", "a,b\n"), DataOptions(encoding="cp1253x"))


def test_a_few_broken_bytes_cost_their_rows_only(tmp_path):
    good = "größe,ham\n" * 5
    path = made(tmp_path / "a.csv", f"text,label\n{good}".encode() + b"bro\xffken,ham\n" + good.encode())
    rows, bad = everything(reader_for(path, OPTIONS))
    assert len(rows) == 11
    assert rows[5] == {"text": None, "label": None}
    assert list(bad) == [6]
    assert "bytes that are not UTF-8" in str(bad[6])
    assert "a.csv, row 6, column 'text'" in str(bad[6])
    assert "0xff" in str(bad[6])


def test_quoted_newlines_quotes_and_delimiters(tmp_path):
    rows = [
        {"text": 'he said "no",\nthen left\r\n\ttwice', "label": "a;b"},
        {"text": "", "label": "\n"},
        {"text": " x ", "label": '"'},
    ]
    rows, expected = rows * 3, rows * 3
    assert (
        everything(reader_for(made(tmp_path / "a.csv", as_csv(rows)), DataOptions(delimiter=",", header=True)))[0] == expected
    )


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_line_ends_and_blank_lines(tmp_path, newline):
    content = newline.join(["", "text,label", "a,1", "", "   ", "b,2", "", ""])
    rows, bad = everything(reader_for(made(tmp_path / "a.csv", content), OPTIONS))
    assert rows == [{"text": "a", "label": "1"}, {"text": "b", "label": "2"}]
    assert not bad


def test_wrong_number_of_fields_is_a_bad_row_in_place(tmp_path):
    content = "text,label\na,1\nb,2,3\nc,3\nd\n" + "e,5\n" * 5
    rows, bad = everything(reader_for(made(tmp_path / "mails.csv", content), OPTIONS))
    assert rows[1] == {"text": None, "label": None}
    assert rows[2] == {"text": "c", "label": "3"}
    assert str(bad[2]) == (
        "the row has a wrong number of fields\n  where: mails.csv, row 2\n  got: 3 fields: 'b,2,3'\n  expected: 2 fields\n"
        "  to do: a field that holds the delimiter or a line end must stand in double quotes"
    )
    assert "add what is missing" in str(bad[4])
    assert len(rows) == 9


def test_a_stray_quote_costs_one_row(tmp_path):
    content = 'text,label\nsound,1\n"open,2\nnext,3\n"good",4\n"said "so" then",5\nlast,6\n'
    rows, bad = everything(reader_for(made(tmp_path / "a.csv", content), DataOptions(delimiter=",", header=True)))
    assert [row["label"] for row in rows] == ["1", None, "3", "4", None, "6"]
    assert "the row is quoted wrongly" in str(bad[2])
    assert "a.csv, row 2 (line 3)" in str(bad[2])
    assert "doubled" in str(bad[5])


@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("size", [5_000, 3_000_000])
def test_a_row_that_is_too_long_is_one_bad_row(tmp_path, quoted, size):
    long = '"' + "word, \n" * (size // 7) + '"' if quoted else "w" * size
    content = f"text,label\na,1\n{long},2\nb,3\n"
    rows, bad = everything(
        reader_for(made(tmp_path / "a.csv", content), DataOptions(max_row_bytes=1000, delimiter=",", header=True))
    )
    assert [row["label"] for row in rows] == ["1", None, "3"]
    assert "the row is too long\n  where: a.csv, row 2" in str(bad[2])
    assert "expected: at most 1,000 bytes" in str(bad[2])
    assert "data.max_row_bytes" in str(bad[2])
    assert abs(int(str(bad[2]).split("got: ")[1].split(" bytes")[0].replace(",", "")) - len(long)) < 10


def test_a_row_of_10_mb_under_the_usual_limit(tmp_path):
    for name, line in (
        ("a.csv", "x" * 10_000_000 + ",1\n"),
        ("a.jsonl", json.dumps({"text": "x" * 10_000_000, "label": "1"}) + "\n"),
    ):
        small = "hello,1\n" if name == "a.csv" else '{"text": "hello", "label": "1"}\n'
        head = "text,label\n" if name == "a.csv" else ""
        rows, bad = everything(reader_for(made(tmp_path / name, head + small + line + small), OPTIONS))
        assert [row["text"] for row in rows] == ["hello", None, "hello"]
        assert "the row is too long" in str(bad[2])
        assert "10,000,0" in str(bad[2])


def test_a_line_that_is_too_long_is_not_kept_in_memory():
    blocks = ["start\n", *['x"' * 2**19] * 20, "end\nlast"]
    tracemalloc.start()
    lines = list(text_lines(iter(blocks), "\n", 1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert lines == ["start\n", LongLine(20 * 2**20 + len("end\n"), 20 * 2**19), "last"]
    assert peak < 6 * 2**20


def test_long_rows_are_counted_in_bytes(tmp_path):
    content = "text,label\n" + "ä" * 30 + ",1\n" + "a" * 30 + ",1\n"
    _, bad = everything(reader_for(made(tmp_path / "a.csv", content), DataOptions(max_row_bytes=50)))
    assert list(bad) == [1]


def test_a_quote_that_is_never_closed_stops_with_the_row_that_opened_it(tmp_path):
    content = "text,label\na,1\n" + '"b,2\n' + "c,3\n" * 1000
    path = made(tmp_path / "a.csv", content)
    with pytest.raises(DataError) as caught:
        everything(reader_for(path, DataOptions(max_row_bytes=500, delimiter=",", header=True)))
    assert "a quote is opened and never closed" in str(caught.value)
    assert "a.csv, row 2 (line 3)" in str(caught.value)
    assert "the file ends at line 1003" in str(caught.value)
    made(path, content + 'd "x" "y",4\n"z",5\n')
    with pytest.raises(DataError, match="never closed"):
        everything(reader_for(path, DataOptions(max_row_bytes=500, delimiter=",", header=True)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text,text\na,b\n", "the column name 'text' stands twice"),
        ("text,,label\na,b,c\n", "column 2 has no name"),
        (",text,label\n0,a,b\n", "to_csv(index=False)"),
        ("text, text\na,b\n", "the column name 'text' stands twice"),
    ],
)
def test_duplicate_and_empty_column_names(tmp_path, content, said):
    assert said in refused(made(tmp_path / "a.csv", content))


def test_duplicate_names_in_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["text", "text"]), path)
    assert "the column name 'text' stands twice" in refused(path)


def test_missing_file_offers_the_nearest(tmp_path):
    made(tmp_path / "mails.csv", "a,b\n")
    assert "the file does not exist" in refused(tmp_path / "mials.csv")
    assert "did you mean 'mails.csv'?" in refused(tmp_path / "mials.csv")


@pytest.mark.parametrize("name", FORMATS)
def test_empty_file(tmp_path, name):
    assert "the file is empty" in refused(made(tmp_path / name, b""))


@pytest.mark.parametrize("name", [n for n in FORMATS if n.endswith((".gz", ".zst", ".parquet", ".arrow", ".arrows"))])
def test_truncated_file(tmp_path, name):
    path = write_format(tmp_path / name)
    path.write_bytes(path.read_bytes()[:-40])
    text = refused(path)
    assert "truncated" in text
    assert "again" in text


def test_a_compressed_name_on_plain_text(tmp_path):
    assert "cannot be unpacked as gzip" in refused(made(tmp_path / "a.csv.gz", "a,b\n1,2\n"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(b"a,b\n", mtime=0), "a gzip file"),
        (b"PAR1" + b"x" * 20, "a Parquet file"),
        (b"PK\x03\x04" + b"x" * 20, "a zip archive (or an Excel workbook)"),
        (bytes(range(256)) * 10, "the file is binary, not text"),
        (b"a,b\n" + b"\x00" * 50, "zero bytes"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_binary_file(tmp_path, content, said, name):
    assert said in refused(made(tmp_path / name, content))


@pytest.mark.parametrize(("name", "said"), [("a.parquet", "not a Parquet file"), ("a.arrow", "not an Arrow file")])
def test_text_in_a_binary_format(tmp_path, name, said):
    assert said in refused(made(tmp_path / name, "text,label\n" * 20))


def test_folder_and_unknown_suffix(tmp_path):
    (tmp_path / "b.csv").mkdir()
    assert "not a regular file" in refused(tmp_path / "b.csv")
    text = refused(made(tmp_path / "a.xlsx", "x"))
    assert "cannot read this kind of file" in text
    assert "the suffix '.xlsx'" in text
    assert ".csv" in text
    assert ".parquet" in text
    assert "a name without a suffix" in refused(made(tmp_path / "rows", "x"))
    assert "compressed inside" in refused(made(tmp_path / "a.parquet.gz", "x"))


def test_only_blank_lines(tmp_path):
    assert "only blank lines" in refused(made(tmp_path / "a.csv", "\n\n\n"))
    assert "only blank lines" in refused(made(tmp_path / "a.jsonl", "\n\n\n"))


def test_json_types_and_missing_keys(tmp_path):
    lines = ['{"a": 1, "b": "x"}', '{"b": null, "c": true}', '{"a": 2.5, "d": null}']
    reader = reader_for(made(tmp_path / "a.jsonl", "\n".join(lines)), OPTIONS)
    assert [str(kind) for kind in reader.schema.types] == ["double", "string", "bool", "string"]
    assert everything(reader)[0][1] == {"a": None, "b": None, "c": True, "d": None}
    assert reader.row_count == 3


def test_json_mixed_types_name_both_rows(tmp_path):
    lines = ['{"label": 1, "x": "a"}'] * 4 + ['{"label": "one", "x": 1}'] * 2
    with pytest.raises(DataError) as caught:
        reader_for(made(tmp_path / "a.jsonl", "\n".join(lines)), OPTIONS)
    text = str(caught.value)
    assert "2 problems" in text
    assert "the column 'label' mixes types" in text
    assert "whole number (first in row 1) and text (first in row 5)" in text
    assert "a.jsonl, column 'x'" in text


def test_json_nested_and_invalid_rows(tmp_path):
    lines = [
        '{"text": "a", "label": 1}',
        '{"text": {"body": "b"}, "label": 1}',
        '{"text": ["a", "b"], "label": 1}',
        '{"text": "c", "label": ',
        '["text"]',
        '{"text": "d", "label": NaN}',
        '{"text": "\\ud800", "label": 1}',
        '{"text": "e", "label": 99999999999999999999999}',
        '{"text": "f", "label": 2}',
        '{"text": [{"role": "user", "content": "hello"}], "label": 1}',
    ]
    reader = reader_for(made(tmp_path / "a.jsonl", "\n\n".join(lines)), OPTIONS)
    rows, bad = everything(reader, 4)
    assert sorted(bad) == [2, 3, 4, 5, 6, 7, 8, 10]
    assert "write it as a text that holds JSON, which --dialogue reads" in str(bad[10])
    assert rows[8] == {"text": "f", "label": 2}
    assert all(row == {"text": None, "label": None} for row in rows[1:8])
    assert "nested JSON: the value of 'text' is not a single value\n  where: a.jsonl, row 2, column 'text'" in str(bad[2])
    assert "an object" in str(bad[2])
    assert "'text_body'" in str(bad[2])
    assert "a list" in str(bad[3])
    assert "the line is not a JSON object\n  where: a.jsonl, row 4" in str(bad[4])
    assert "a list instead of an object" in str(bad[5])
    assert "NaN is no JSON number" in str(bad[6])
    assert "valid Unicode text" in str(bad[7])
    assert "64 bits" in str(bad[8])


def test_json_lists_of_numbers_are_series(tmp_path):
    lines = [
        '{"flow": [1, 2.5, null], "both": [[1, 2], [3, null], null], "tags": ["a"], "label": "x"}',
        '{"flow": [], "both": [], "tags": [], "label": "y"}',
        '{"flow": [true], "both": [[1, 2]], "tags": ["b"], "label": "x"}',
        '{"flow": [[1], 2], "both": [[1, 2]], "tags": ["b"], "label": "x"}',
        '{"flow": [3], "both": [[1, 2]], "tags": ["b", 4], "label": "x"}',
        '{"flow": [4], "both": [[1, 2]], "tags": [], "label": "x"}',
    ]
    reader = reader_for(made(tmp_path / "a.jsonl", "\n".join(lines)), OPTIONS)
    number = pa.float64()
    assert [reader.schema.field(name).type for name in ("flow", "both")] == [pa.list_(number), pa.list_(pa.list_(number))]
    rows, bad = everything(reader, 4)
    assert sorted(bad) == [3, 4, 5]
    assert rows[0] == {"flow": [1.0, 2.5, None], "both": [[1.0, 2.0], [3.0, None], None], "tags": ["a"], "label": "x"}
    assert rows[1] == {"flow": [], "both": [], "tags": [], "label": "y"}
    assert "a text, a number, true/false, null, a list of texts or a list of numbers" in str(bad[3])


def test_json_lists_of_numbers_among_numbers_are_faults_of_their_rows(tmp_path):
    lines = ['{"n": 1}', '{"n": 2.5}', '{"n": [1, 2]}', '{"n": 3}']
    reader = reader_for(made(tmp_path / "a.jsonl", "\n".join(lines)), OPTIONS)
    rows, bad = everything(reader, 10)
    assert [row["n"] for row in rows] == [1.0, 2.5, None, 3.0]
    assert "row 3, column 'n'" in str(bad[3])
    for other, said in (("[[1]]", "list of lists of numbers"), ('["a"]', "list of texts")):
        lines = ['{"n": [1]}', '{"n": []}', f'{{"n": {other}}}']
        with pytest.raises(
            DataError, match=rf"mixes types(.|\n)*list of numbers \(first in row 1\) and {said} \(first in row 3"
        ):
            reader_for(made(tmp_path / "b.jsonl", "\n".join(lines)), OPTIONS)


def test_json_array_is_named(tmp_path):
    text = refused(made(tmp_path / "a.json", json.dumps(ROWS, indent=1)))
    assert "one JSON array, not JSON lines" in text
    assert "jq -c" in text


def test_json_all_bad_says_why(tmp_path):
    with pytest.raises(DataError, match="the line is not a JSON object"):
        reader_for(made(tmp_path / "a.jsonl", "hello\nthere\n"), OPTIONS)


def test_parquet_types_stay_and_long_rows_are_bad(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table(
        {
            "text": pa.array(["a", "b" * 2000, "c"], pa.large_string()),
            "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
            "number": pa.array([1, 2, 3], pa.int8()),
            "tags": pa.array([["p"], [], None]),
        }
    )
    pq.write_table(table, path)
    reader = reader_for(path, DataOptions(max_row_bytes=1000))
    assert [str(kind) for kind in reader.schema.types][:3] == ["string", "string", "int8"]
    rows, bad = everything(reader)
    assert rows == [
        {"text": "a", "kind": "x", "number": 1, "tags": ["p"]},
        {"text": None, "kind": None, "number": None, "tags": None},
        {"text": "c", "kind": "x", "number": 3, "tags": None},
    ]
    assert "2,001 bytes" in str(bad[2])


def test_readers_can_be_read_twice_and_stopped_early(tmp_path):
    for name in FORMATS:
        reader = reader_for(write_format(tmp_path / name), OPTIONS)
        next(reader.chunks(3))
        assert everything(reader) == everything(reader)
