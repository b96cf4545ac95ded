from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from serving_making import make_predictor, make_rows

from regraft.data.options import DataOptions
from regraft.data.reader import Chunk
from regraft.data.rows import open_rows
from regraft.data.write import CsvWriter, JsonLinesWriter, ParquetWriter
from regraft.errors import DataError, Problem
from regraft.serving.stream import windows


def mails(path: Path, rows: list[str], **more: list) -> Path:
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["text", *more])
        out.writerows(zip(rows, *more.values(), strict=True))
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_file_answers_as_a_list_does_bit_for_bit(predictor, tmp_path):
    rows = make_rows(2500)
    source = open_rows(mails(tmp_path / "mails.csv", rows, id=list(range(2500))), DataOptions())
    seen: list[tuple[int, int | None]] = []
    summary = predictor.predict_stream(
        source, ParquetWriter(tmp_path / "out.parquet"), progress=lambda n, total: seen.append((n, total))
    )
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.column_names == [
        "row",
        "text",
        "id",
        "prediction",
        "probability.eggs",
        "probability.ham",
        "probability.spam",
        "error",
    ]
    expected = predictor.predict([{"text": row} for row in rows])
    assert table["row"].to_pylist() == list(range(1, 2501))
    assert table["text"].to_pylist() == rows
    assert table["prediction"].to_pylist() == [p.value for p in expected]
    for name in ("eggs", "ham", "spam"):
        assert table[f"probability.{name}"].to_pylist() == [p.probabilities[name] for p in expected]
    assert table["error"].null_count == 2500
    assert [n for n, _ in seen] == [1024, 2048, 2500]
    assert summary.rows == summary.answered == 2500
    assert summary.bad == 0
    assert summary.to_json()["columns"] == table.column_names


def test_csv_and_json_lines_hold_the_same_numbers(predictor, tmp_path):
    rows = make_rows(30)
    source = open_rows(mails(tmp_path / "mails.csv", rows), DataOptions())
    predictor.predict_stream(source, CsvWriter(tmp_path / "out.csv"))
    predictor.predict_stream(source, JsonLinesWriter(tmp_path / "out.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    expected = [p.probabilities["ham"] for p in predictor.predict(rows)]
    assert [line["probability.ham"] for line in lines] == expected
    assert [float(row["probability.ham"]) for row in read_csv(tmp_path / "out.csv")] == expected


def test_bad_rows_stand_in_their_places_with_the_reason(predictor, tmp_path):
    path = tmp_path / "mails.csv"
    path.write_text('text,id\nw1 w2,1\n"",2\nw3,3,too,many\nw4,4\n')
    source = open_rows(path, DataOptions())
    summary = predictor.predict_stream(source, CsvWriter(tmp_path / "out.csv"))
    rows = read_csv(tmp_path / "out.csv")
    assert [row["row"] for row in rows] == ["1", "2", "3", "4"]
    assert [bool(row["error"]) for row in rows] == [False, True, True, False]
    assert rows[1]["id"] == "2"
    assert rows[1]["prediction"] == rows[1]["probability.ham"] == ""
    good = predictor.predict(["w1 w2", "w4"])
    assert [rows[0]["prediction"], rows[3]["prediction"]] == [p.value for p in good]
    assert (summary.rows, summary.answered, summary.bad) == (4, 2, 2)
    assert summary.ledger.to_json()["rows without an answer"] == {
        "count": 2,
        "examples": ["mails.csv, row 2", "mails.csv, row 3"],
    }


def test_strict_finds_every_bad_row_before_any_is_answered(predictor, tmp_path):
    path = tmp_path / "mails.csv"
    path.write_text("text,id\nw1 w2,1\n" + "w5,5\n" * 2000 + ",2\nw3,3,too,many\n")
    out = tmp_path / "out.csv"
    with pytest.raises(DataError) as caught:
        predictor.predict_stream(open_rows(path, DataOptions()), CsvWriter(out), strict=True)
    text = str(caught.value)
    assert "2 problems:" in text
    assert "mails.csv, row 2002, column 'text'" in text
    assert "row 2003" in text
    assert not out.exists()
    assert predictor.runtime.batches == []


def test_truncated_tokens_are_counted_with_where(predictor, tmp_path):
    rows = ["w1", " ".join(["w2"] * 100), "w3"]
    summary = predictor.predict_stream(open_rows(mails(tmp_path / "m.csv", rows), DataOptions()), CsvWriter(tmp_path / "o.csv"))
    assert summary.ledger.to_json() == {
        "truncated tokens": {"count": 54, "examples": ["m.csv, row 2"]},
        "truncated rows": {"count": 1, "examples": ["m.csv, row 2"]},
    }


def test_names_that_the_input_has_already_are_kept_and_ours_are_renamed(predictor, tmp_path):
    rows = ["w1", "w2"]
    path = mails(tmp_path / "m.csv", rows, row=["a", "b"], prediction=["x", "y"], regraft_row=["c", "d"])
    summary = predictor.predict_stream(open_rows(path, DataOptions()), CsvWriter(tmp_path / "o.csv"))
    written = read_csv(tmp_path / "o.csv")
    assert [row["row"] for row in written] == ["a", "b"]
    assert [row["regraft_regraft_row"] for row in written] == ["1", "2"]
    assert [row["regraft_prediction"] for row in written] == [p.value for p in predictor.predict(rows)]
    assert "the data have a column 'prediction' already: ours is called 'regraft_prediction'" in summary.notes


def test_a_missing_column_is_named_before_anything_is_written(predictor, tmp_path):
    source = open_rows([{"texts": "w1", "id": 3}], DataOptions())
    with pytest.raises(DataError) as caught:
        predictor.predict_stream(source, CsvWriter(tmp_path / "o.csv"))
    text = str(caught.value)
    assert "the column 'text', which the artifact reads, is missing" in text
    assert "'texts', 'id'" in text
    assert "did you mean 'texts'?" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("labels", "kind"), [((1, 2), pa.int64()), ((False, True), pa.bool_()), (("a", "b"), pa.string())])
def test_predictions_have_the_type_of_the_labels(labels, kind, tmp_path):
    source = open_rows(mails(tmp_path / "m.csv", make_rows(20)), DataOptions())
    make_predictor(labels).predict_stream(source, ParquetWriter(tmp_path / "o.parquet"))
    assert parquet.read_table(tmp_path / "o.parquet").schema.field("prediction").type == kind


def test_only_bad_rows_still_make_a_whole_file(predictor, tmp_path):
    source = open_rows([{"text": None, "id": 1}, {"text": "", "id": 2}], DataOptions())
    summary = predictor.predict_stream(source, ParquetWriter(tmp_path / "o.parquet"))
    table = parquet.read_table(tmp_path / "o.parquet")
    assert (summary.bad, table.num_rows, table["prediction"].null_count) == (2, 2, 2)
    assert table.schema.field("prediction").type == pa.string()


def chunk(first_row: int, values: list, bad: dict | None = None, source: str = "a.csv") -> Chunk:
    return Chunk(pa.RecordBatch.from_pydict({"n": values}, schema=pa.schema([("n", pa.int64())])), first_row, bad or {}, source)


def test_windows_do_not_depend_on_the_chunks_of_the_reader():
    """Random chunks, joined by hand, against the windows."""
    rng = np.random.default_rng(0)
    chunks, rows = [], []
    for file in ("a.csv", "b.csv"):
        number = 1
        for size in rng.integers(0, 40, size=30):
            values = rng.integers(0, 1000, size=size).tolist()
            bad = {int(i): Problem(what=f"{file} {number + i}") for i in range(size) if rng.random() < 0.1}
            chunks.append(chunk(number, values, bad, file))
            rows += [(value, bad[i].what if i in bad else None, f"{file}, row {number + i}") for i, value in enumerate(values)]
            number += int(size)
    got = []
    cut = list(windows(chunks, 64))
    for window in cut:
        for i, value in enumerate(window.rows.column("n").to_pylist()):
            got.append((value, window.bad[i].what if i in window.bad else None, window.place(i)))
    assert got == rows
    assert [w.rows.num_rows for w in cut[:-1]] == [64] * (len(rows) // 64)


MEASURE = """
import resource, sys
sys.path[:0] = [sys.argv[1]]
import pyarrow as pa
from regraft.data.reader import Chunk
from regraft.data.write import CsvWriter
from serving_making import make_predictor
rows, size = int(sys.argv[2]), int(sys.argv[3])
class Source:
    name, columns, row_count = "made", ["text", "id"], rows
    schema = pa.schema([("text", pa.string()), ("id", pa.int64())])
    def chunks(self, chunk_rows):
        for start in range(0, rows, chunk_rows):
            n = min(chunk_rows, rows - start)
            # One long unknown word: many bytes, few tokens.
            texts = [f"w{(start + i) % 60} " * 5 + "x" * size for i in range(n)]
            columns = {"text": texts, "id": range(start, start + n)}
            yield Chunk(pa.RecordBatch.from_pydict(columns, schema=self.schema), start + 1)
predictor = make_predictor()
predictor.runtime.batches = type("Forget", (list,), {"append": lambda self, item: None})()
predictor.predict_stream(Source(), CsvWriter(sys.argv[4] + "/out.csv"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kb(rows: int, size: int, folder: Path) -> int:
    command = [sys.executable, "-c", textwrap.dedent(MEASURE), str(Path(__file__).parent), str(rows), str(size), str(folder)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout)


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path):
    small, large = (peak_kb(rows, 5000, tmp_path) for rows in (3_000, 13_000))
    assert large < 1.15 * small, (small, large)  # holding the rows would add 50 MB to about 150
