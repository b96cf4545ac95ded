"""Several columns as one raw value: which columns, what they hold, what is refused and where."""

from __future__ import annotations

import datetime

import pyarrow as pa
import pytest

from regraft.data.dataset import load_dataset
from regraft.data.gathering import Gather, named_columns
from regraft.data.options import DataOptions
from regraft.data.rows import open_rows
from regraft.errors import DataError
from regraft.modalities.table_survey import TableSurvey


def rows(count=60, **changed):
    made = [
        {
            "age": str(20 + i % 37),
            "town": f"t{i % 5}",
            "since": f"2024-01-{i % 28 + 1:02}",
            "ok": ["yes", "no"][i % 2],
            "y": i % 2,
        }
        for i in range(count)
    ]
    for place, values in changed.items():
        made[int(place.removeprefix("row_"))].update(values)
    return made


def opened(data, columns="", kinds=None, target="y", **given):
    return load_dataset(data, target=target, inputs={"table": Gather(columns, TableSurvey(kinds or {}))}, **given)


def refused(*args, **given):
    with pytest.raises(DataError) as caught:
        opened(*args, **given)
    return str(caught.value)


def test_columns_stand_as_one_and_the_others_stay_beside():
    with opened(rows(), "age,ok") as dataset:
        assert (dataset.input_column, dataset.input_modality) == ("table", "table")
        assert dataset.split("train").columns == ["town", "since", "y", "table"]
        found = [raw for split in dataset.names for raw in dataset.split(split).values("table")]
        assert sorted(map(str, found)) == sorted(str({"age": row["age"], "ok": row["ok"]}) for row in rows())
        assert dataset.settled == {"kinds": {"age": "number", "ok": "boolean"}}
        assert "2 columns are read together, as given; numbers: 'age'; true or false: 'ok'" in dataset.notes


def test_kinds_of_texts():
    with opened(rows(row_3={"age": ""}, row_4={"age": "NA"})) as dataset:
        kinds = {"age": "number", "town": "category", "since": "date", "ok": "boolean"}
        assert dataset.settled == {"kinds": kinds}
        assert not dataset.ledger.counts.get("unreadable rows")


def test_kinds_of_typed_values():
    table = pa.table(
        {
            "n": pa.array([1, None, 3] * 10),
            "f": pa.array([1.5, 2.5, None] * 10),
            "b": pa.array([True, False, None] * 10),
            "d": pa.array([datetime.date(2024, 1, 1 + i % 28) for i in range(30)]),
            "t": pa.array([datetime.datetime(2024, 1, 1, i % 24) for i in range(30)], pa.timestamp("us")),
            "c": pa.array(["a", "b", "1"] * 10).dictionary_encode(),
            "y": [0, 1, 0] * 10,
        }
    )
    with opened(table) as dataset:
        kinds = {"n": "number", "f": "number", "b": "boolean", "d": "date", "t": "date", "c": "category"}
        assert dataset.settled == {"kinds": kinds}


def test_numbers_written_otherwise_are_wrong_numbers_and_no_categories():
    with opened(rows(row_7={"age": "1,5"})) as dataset:
        assert dataset.settled["kinds"]["age"] == "number"
        said = "list of dicts, row 8: the column 'age' holds '1,5', where a number such as 1.5 is expected"
        assert dataset.ledger.to_json()["unreadable rows"] == {"count": 1, "examples": [said]}
    text = refused([{**row, "age": f"{row['age']},5"} for row in rows()])
    assert "the numbers of the column 'age' are not written as programs write them" in text
    assert "got: 60 such as '20,5'" in text
    assert "write them so, or read them as names: --set modality.kinds.age=category" in text
    many = [{**row, "age": f"{row['age']},5"} if i % 3 == 0 else row for i, row in enumerate(rows())]
    text = refused(many)
    assert "more rows would be lost than allowed" in text
    assert "the column 'age' holds '20,5', where a number such as 1.5 is expected" in text
    assert "list of dicts, row 1" in text


def test_the_user_says_what_a_column_is():
    with opened([{**row, "age": f"{i % 9},5"} for i, row in enumerate(rows())], kinds={"age": "category"}) as dataset:
        assert dataset.settled["kinds"]["age"] == "category"
    text = refused(rows(), kinds={"aeg": "number"})
    assert "there is no column 'aeg' to read" in text
    assert "did you mean 'age'?" in text


def test_codes_keep_their_zeros():
    with opened([{**row, "zip": f"0{1000 + i % 9}"} for i, row in enumerate(rows())]) as dataset:
        assert dataset.settled["kinds"]["zip"] == "category"
        assert "'zip' has values that begin with a zero: read as a category" in dataset.notes


def test_what_only_names_rows_is_left_out_unless_it_is_named():
    data = [
        {**row, "id": 500 + i, "mail": f"m{i}@x.org", "order_id": i * i, "price": i * i, "said": f"text {i % 50}"}
        for i, row in enumerate(rows())
    ]
    with opened(data) as dataset:
        assert list(dataset.settled["kinds"]) == ["age", "town", "since", "ok", "price"]
        left = "left out: 'id' numbers the rows; 'mail' is different in every row; 'order_id' numbers the rows; "
        left += "'said' holds 50 different texts in 60 rows (--table names columns)"
        assert left in dataset.notes
        assert dataset.split("test").columns == ["y", "id", "mail", "order_id", "said", "table"]
    with opened(data, "id, mail") as dataset:
        assert dataset.settled == {"kinds": {"id": "number", "mail": "category"}}


def test_a_column_called_table_stays_what_it_is():
    with opened([{**row, "table": "x"} for row in rows()], "age") as dataset:
        assert dataset.input_column == "table_"
        assert set(dataset.split("train").values("table")) == {"x"}


def test_a_column_of_lists():
    lists = pa.Table.from_pylist([{**row, "v": [1.0, 2.0]} for row in rows()])
    with opened(lists) as dataset:
        assert "v" not in dataset.settled["kinds"]
        assert any("left out: 'v' holds values of type list" in note for note in dataset.notes)
    text = refused(lists, "age,v")
    assert "the column 'v' cannot stand in a table" in text
    assert "leave the column out, or write its parts to columns of their own" in text


def test_columns_that_are_not_there():
    text = refused(rows(), "age,twon,y")
    assert "there is no column 'twon'" in text
    assert "did you mean 'town'?" in text
    assert "the target 'y' cannot be read as well" in text
    short = [{key: row[key] for key in ("age", "y")} for row in rows()]
    text = refused(rows(), test=short)
    assert "there is no column 'town'" in text
    assert "there is no column beside 'y'" in refused([{"y": i % 2} for i in range(9)])
    assert "no column is left to read" in refused([{"y": i % 2, "name": f"n{i}"} for i in range(40)])


def test_rows_without_any_value_and_infinite_numbers_are_unreadable():
    data = rows(row_5={"age": "", "town": "", "since": "", "ok": ""}, row_6={"age": "1e400"})
    with opened(data) as dataset:
        assert dataset.ledger.to_json()["unreadable rows"] == {
            "count": 2,
            "examples": [
                "list of dicts, row 6: every value of the row is missing",
                "list of dicts, row 7: the column 'age' holds an infinite number, where a finite one is expected",
            ],
        }


def test_numbers_as_texts_and_as_numbers_are_the_same_rows():
    texts = [{"a": str(i % 7), "b": "x" if i % 2 else "z", "y": i % 2} for i in range(40)]
    numbers = [{**row, "a": int(row["a"])} for row in texts]
    with opened(texts, "a,b") as one, opened(numbers, "a,b") as two:
        assert one.fingerprint == two.fingerprint


def test_gathering_keeps_bad_rows_and_places():
    source = open_rows([{"a": 1, "b": "x", "c": 2.0}, {"a": None, "b": None, "c": 3.0}], DataOptions()).gathered(
        "t", ["b", "a"]
    )
    (chunk,) = source.chunks()
    assert source.columns == ["c", "t"]
    assert chunk.rows.to_pylist() == [{"c": 2.0, "t": {"b": "x", "a": 1}}, {"c": 3.0, "t": {"b": None, "a": None}}]
    assert chunk.place(1) == "list of dicts, row 2"


def test_names_with_commas():
    assert named_columns('a, "b, c" ,a', ["a"]) == ["a", "b, c"]
    assert named_columns("b, c", ["b, c"]) == ["b, c"]
