"""Opening data of any kind: files, folders, samples, objects; and what is said when there is nothing to open."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from regraft.data.options import DataOptions
from regraft.data.rows import RowSource, open_rows, open_splits
from regraft.errors import DataError

OPTIONS = DataOptions()
ROWS = [{"text": f"mail {i}", "label": "spam" if i % 3 else "ham"} for i in range(30)]


def everything(source: RowSource, chunk_rows: int = 7) -> list[dict]:
    return [row for chunk in source.chunks(chunk_rows) for row in chunk.rows.to_pylist()]


def jsonl(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def refused(source: object, **more: str) -> str:
    with pytest.raises(DataError) as caught:
        open_rows(source, OPTIONS, **more)
    return str(caught.value)


def test_a_file_says_what_it_is(tmp_path):
    path = jsonl(tmp_path / "mails.jsonl", ROWS)
    source = open_rows(str(path), OPTIONS)
    assert (source.name, source.columns, source.row_count, source.typed) == ("mails.jsonl", ["text", "label"], 30, True)
    assert source.size_bytes == path.stat().st_size
    assert all(note.startswith("mails.jsonl: ") for note in source.notes)
    assert everything(source) == everything(source) == ROWS
    assert source.is_part(tmp_path / "." / "mails.jsonl")
    assert not source.is_part(jsonl(tmp_path / "others.jsonl", ROWS))
    assert not source.is_part(tmp_path / "none.jsonl")


def test_chunks_know_their_place(tmp_path):
    jsonl(tmp_path / "d" / "a.jsonl", ROWS[:5])
    jsonl(tmp_path / "d" / "b.jsonl", ROWS[5:])
    chunks = list(open_rows(tmp_path / "d", OPTIONS).chunks(4))
    assert chunks[1].place(0) == "a.jsonl, row 5"
    assert chunks[2].place(1) == "b.jsonl, row 2"


def test_the_sample_is_opened_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = open_rows("spam", OPTIONS)
    assert (source.name, source.columns, source.row_count) == ("spam.parquet", ["id", "text", "label", "kind"], 2000)
    assert "the shipped sample 'spam'" in source.notes[0]
    (tmp_path / "spam").mkdir()
    jsonl(tmp_path / "spam" / "a.jsonl", ROWS)
    assert "write ./spam" in open_rows("spam", OPTIONS).notes[0]
    assert open_rows("./spam", OPTIONS).row_count == 30


def test_unknown_names_offer_files_and_samples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jsonl(tmp_path / "mails.jsonl", ROWS)
    text = refused("mials.jsonl")
    assert "there is no file, folder or sample 'mials.jsonl'" in text
    assert "did you mean 'mails.jsonl'?" in text
    assert "did you mean 'spam'?" in refused("spma")
    assert "use one of 'mails.jsonl', 'spam'" in refused("zzz")
    assert "does not exist" in refused(str(tmp_path / "no" / "where.csv"))
    assert f"did you mean '{tmp_path}/mails.jsonl'?" in refused(tmp_path / "mail.jsonl")


def test_objects_give_their_rows():
    import datasets

    frame = pd.DataFrame(ROWS, index=range(100, 130))
    objects = {
        "data frame": frame,
        "Arrow table": pa.Table.from_pylist(ROWS),
        "list of dicts": ROWS,
        "datasets.Dataset": datasets.Dataset.from_list(ROWS),
    }
    for name, data in objects.items():
        source = open_rows(data, OPTIONS)
        assert (source.name, source.columns, source.row_count, source.size_bytes) == (name, ["text", "label"], 30, 0)
        assert everything(source) == ROWS
        assert next(source.chunks(4)).place(2) == f"{name}, row 3"
    assert everything(open_rows(objects["datasets.Dataset"].select([5, 3]), OPTIONS)) == [ROWS[5], ROWS[3]]
    assert everything(open_rows(pa.RecordBatch.from_pylist(ROWS), OPTIONS)) == ROWS


def test_hub_class_labels_become_names():
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["ham", "spam"])})
    data = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    source = open_rows(data, OPTIONS)
    assert [row["label"] for row in everything(source)] == ["spam", "ham", None]
    assert any("'label' holds the names ham, spam" in note for note in source.notes)


def test_frames_with_nulls_categories_and_numbers():
    frame = pd.DataFrame(
        {"text": ["a", None, "c"], "label": pd.Categorical(["x", "y", "x"]), "score": np.array([1.5, np.nan, 2])}
    )
    assert everything(open_rows(frame, OPTIONS)) == [
        {"text": "a", "label": "x", "score": 1.5},
        {"text": None, "label": "y", "score": None},
        {"text": "c", "label": "x", "score": 2.0},
    ]


def test_objects_that_cannot_be_read():
    text = refused(pd.DataFrame({"label": ["a", 1, "b"]}))
    assert "the column 'label' mixes types" in text
    assert "str (first in row 1) and int (first in row 2)" in text
    assert "column names must be texts" in refused(pd.DataFrame([[1, 2]]))
    assert "stands twice" in refused(pd.DataFrame([["a", "b"]], columns=["x", "x"]))
    assert "there are no rows" in refused(pd.DataFrame({"a": []}))
    assert "there are no rows" in refused([])
    assert "every row of a list must be a dict" in refused([{"a": 1}, 2])
    assert "row 2 is of type int" in refused([{"a": 1}, 2])
    assert "the column 'a' mixes types" in refused([{"a": 1}, {"a": "x"}])
    text = refused(42)
    assert "this kind of object cannot be read as rows" in text
    assert "builtins.int" in text
    assert "a pandas DataFrame" in text


def test_lists_with_nested_and_numpy_values():
    rows = [{"text": "a", "n": np.int64(1)}, {"text": {"x": 1}, "n": 2}, {"text": "c"}]
    chunk = next(open_rows(rows, OPTIONS).chunks(10))
    assert chunk.rows.to_pylist() == [{"text": "a", "n": 1}, {"text": None, "n": None}, {"text": "c", "n": None}]
    assert "list of dicts, row 2, column 'text'" in str(chunk.bad[1])


def test_a_folder_of_one_format_is_one_table(tmp_path):
    jsonl(tmp_path / "d" / "b.jsonl", ROWS[10:])
    jsonl(tmp_path / "d" / "a.jsonl", ROWS[:10])
    (tmp_path / "d" / "README.md").write_text("about")
    source = open_rows(tmp_path / "d", OPTIONS)
    assert everything(source, 100) == ROWS
    assert source.row_count == 30
    assert any("2 files are one table: a.jsonl, b.jsonl" in note for note in source.notes)
    assert any("ignored: README.md" in note for note in source.notes)


def test_files_of_a_folder_must_fit_together(tmp_path):
    jsonl(tmp_path / "d" / "a.jsonl", [{"text": "a", "label": 1}])
    jsonl(tmp_path / "d" / "b.jsonl", [{"text": "b", "lable": 1}])
    text = refused(tmp_path / "d")
    assert "the files of one table have different columns" in text
    assert "'label', 'lable'" in text
    jsonl(tmp_path / "d" / "b.jsonl", [{"label": "x", "text": "b"}])
    assert "different types in the files of one table" in refused(tmp_path / "d")
    jsonl(tmp_path / "d" / "b.jsonl", [{"label": 0.5, "text": "b"}])
    assert everything(open_rows(tmp_path / "d", OPTIONS)) == [{"text": "a", "label": 1.0}, {"text": "b", "label": 0.5}]
    (tmp_path / "d" / "c.csv").write_text("text,label\na,b\n")
    assert "must have one format" in refused(tmp_path / "d")
    (tmp_path / "empty").mkdir()
    assert "the folder holds no data files" in refused(tmp_path / "empty")


@pytest.mark.parametrize(
    "names",
    [
        ("train.jsonl", "validation.jsonl", "test.jsonl"),
        ("train-00000-of-00001.jsonl", "dev-0.jsonl", "test_1.jsonl"),
        ("train/a.jsonl", "val/a.jsonl", "test/a.jsonl"),
        ("data/train.jsonl", "data/valid.jsonl", "data/test.jsonl"),
    ],
)
def test_folders_with_splits(tmp_path, names):
    for i, name in enumerate(names):
        jsonl(tmp_path / "d" / name, ROWS[10 * i : 10 * i + 10])
    found = open_splits(tmp_path / "d", OPTIONS)
    assert {split: everything(source) for split, source in found.items()} == {
        "train": ROWS[:10],
        "valid": ROWS[10:20],
        "test": ROWS[20:],
    }
    assert everything(open_rows(tmp_path / "d", OPTIONS, split="test")) == ROWS[20:]
    assert "the data hold several splits" in refused(tmp_path / "d")


def test_split_names_must_be_whole(tmp_path):
    jsonl(tmp_path / "d" / "train.jsonl", ROWS)
    assert open_rows(tmp_path / "d", OPTIONS).row_count == 30
    assert "there is no 'test' split" in refused(tmp_path / "d", split="test")
    jsonl(tmp_path / "d" / "mails.jsonl", ROWS)
    assert "some files of the folder are named for a split and some are not" in refused(tmp_path / "d")


def test_saved_and_loaded_hub_data(tmp_path):
    import datasets

    data = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS[:20]), "validation": datasets.Dataset.from_list(ROWS[20:])}
    )
    assert {name: source.row_count for name, source in open_splits(data, OPTIONS).items()} == {"train": 20, "valid": 10}
    data.save_to_disk(str(tmp_path / "saved"))
    data["train"].select([3, 1]).save_to_disk(str(tmp_path / "one"))
    assert everything(open_splits(tmp_path / "saved", OPTIONS)["valid"]) == ROWS[20:]
    assert everything(open_rows(tmp_path / "one", OPTIONS)) == [ROWS[3], ROWS[1]]
    for path in (tmp_path / "one").glob("*.arrow"):
        path.write_bytes(b"broken")
    assert "written by save_to_disk, but it cannot be read" in refused(tmp_path / "one")


def test_mappings_of_splits():
    found = open_splits({"training": ROWS, "test": pd.DataFrame(ROWS), "unsupervised": ROWS}, OPTIONS)
    assert list(found) == ["train", "test"]
    assert "ignored: unsupervised, which is no split" in found["train"].notes
    with pytest.raises(DataError, match="two parts stand for the valid split"):
        open_splits({"dev": ROWS, "valid": ROWS}, OPTIONS)
    with pytest.raises(DataError, match="none of the parts is a split"):
        open_splits({"text": ["a"]}, OPTIONS)


def test_bad_rows_pass_through(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,1\nb\n" + "c,1\n" * 5)
    chunk = next(open_rows(tmp_path / "a.csv", OPTIONS).chunks())
    assert list(chunk.bad) == [1]
    assert chunk.rows.to_pylist()[1] == {"text": None, "label": None}
    pq.write_table(pa.table({"a": [1]}), tmp_path / "b.parquet")
    assert open_rows(tmp_path / "a.csv", OPTIONS).row_count is None
    assert open_rows(tmp_path / "a.csv", OPTIONS).typed is False
