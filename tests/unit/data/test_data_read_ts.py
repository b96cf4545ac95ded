"""The .ts format: every kind of header and case, what is wrong with a case, and aeon's own files as aeon reads them."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

import series_real
from regraft.data.formats import reader_for
from regraft.data.options import DataOptions
from regraft.errors import DataError
from regraft.modalities import measurements

HEAD = "#a comment\n%another\n\n@problemName Toy set\n@timeStamps {times}\n@univariate {one}\n@classLabel true a b\n@data\n"


def reader(tmp_path, cases, *, times="false", one="true", head=HEAD, name="toy.ts"):
    path = tmp_path / name
    text = head.format(times=times, one=one) + cases
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return reader_for(path, DataOptions())


def rows(found, size=2):
    chunks = list(found.chunks(size))
    return [row for chunk in chunks for row in chunk.rows.to_pylist()], [p for chunk in chunks for p in chunk.bad.values()]


@pytest.mark.parametrize("name", ["toy.ts", "toy.ts.gz"])
def test_one_dimension_with_gaps_and_different_lengths(tmp_path, name):
    made = reader(tmp_path, "1.0,2,?:a\r\n\n 4 , NaN:B b\n7e-1:?\n", name=name)
    found, bad = rows(made)
    assert found == [
        {"series": [1.0, 2.0, None], "label": "a"},
        {"series": [4.0, None], "label": "B b"},
        {"series": [0.7], "label": None},
    ]
    assert not bad
    assert made.notes[-1] == "Toy set: series of 1 dimension"
    assert not made.typed


def test_several_dimensions_stand_step_by_step(tmp_path):
    found, bad = rows(reader(tmp_path, "1,2,3:4,5,?:a\n6:7:b\n", one="false"))
    assert [row["series"] for row in found] == [[[1, 4], [2, 5], [3, None]], [[6, 7]]]
    assert not bad


def test_times_stand_beside_the_values(tmp_path):
    cases = "(2007-01-01 00:00:00,1.5),(2007-01-01 00:01:00,?):(2007-01-01 00:00:00,2),(2007-01-01 00:01:00,-3):a\n"
    found, bad = rows(reader(tmp_path, cases, times="true", one="false"))
    assert found[0]["series"] == {
        "values": [[1.5, 2.0], [None, -3.0]],
        "times": ["2007-01-01 00:00:00", "2007-01-01 00:01:00"],
    }
    assert measurements.read(found[0]["series"]).times_T.tolist()[1] - 60 == measurements.read(found[0]["series"]).times_T[0]
    found, bad = rows(reader(tmp_path, "(0,1),(2.5,4):b\n", times="True"))
    assert found == [{"series": {"values": [1, 4], "times": [0, 2.5]}, "label": "b"}]
    assert not bad


def test_a_label_that_was_measured_is_a_number(tmp_path):
    found, bad = rows(reader(tmp_path, "1,2:0.25\n1,2:x\n", head="@problemName p\n@targetlabel true\n@data\n"))
    assert found == [{"series": [1, 2], "label": 0.25}, {"series": None, "label": None}]
    assert "the label 'x'" in str(bad[0])
    found, _ = rows(reader(tmp_path, "1,2\n", head="@classLabel false\n@data\n"))
    assert found == [{"series": [1, 2]}]


@pytest.mark.parametrize(
    ("case", "more", "said"),
    [
        ("1,x:a", {}, ["got 'x'", "expected numbers between commas, or ? where nothing was measured"]),
        ("1:2:a", {}, ["got 2 dimensions", "expected 1 as in the first case"]),
        ("1,2:3:a", {"one": "false", "first": "1:2:a"}, ["got dimensions of 1 and 2 numbers", "expected as many in each"]),
        ("(1,2),3:a", {"times": "true", "first": "(1,2):a"}, ["got '(1,2),3'", "expected (time,number),(time,number)"]),
        ("(x,2):a", {"times": "true", "first": "(1,2):a"}, ["got the time 'x'", "expected a number as in the first case"]),
        ("(1,2):(2,2):a", {"times": "true", "one": "false", "first": "(1,2):(1,2):a"}, ["expected the same times in each"]),
        ("1," * 600_000 + "1:a", {}, ["the row is too long"]),
    ],
)
def test_a_case_that_cannot_be_read_stands_in_its_place(tmp_path, case, more, said):
    first = more.pop("first", "1,2:a")
    found, bad = rows(reader(tmp_path, f"{first}\n{case}\n{first}\n", **more))
    assert [row["series"] is None for row in found] == [False, True, False]
    (problem,) = bad
    assert problem.where == "toy.ts, row 2"
    text = str(DataError(problem)).replace("got:      ", "got ").replace("expected: ", "expected ")
    for part in said:
        assert part.removeprefix("got ").removeprefix("expected ") in text
    assert problem.fix


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("@problemName p\n1,2:a\n", ["a line of the header cannot be read", "line 2", "a line that begins with @, # or %"]),
        ("@univariate perhaps\n@data\n1:a\n", ["@univariate true, or @univariate false"]),
        ("@problemName p\n", ["the file has no data: the line @data is missing"]),
        ("@problemName p\n@data\n\n", ["the file has no rows: nothing stands after @data"]),
        ("", ["the file is empty"]),
    ],
)
def test_a_file_that_is_no_ts_file_is_refused_at_once(tmp_path, text, said):
    path = tmp_path / "toy.ts"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        reader_for(path, DataOptions())
    for part in said:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "ArrowHead/ArrowHead_TRAIN",
        "BasicMotions/BasicMotions_TRAIN",
        "JapaneseVowels/JapaneseVowels_TEST",
        "PickupGestureWiimoteZ/PickupGestureWiimoteZ_TRAIN",
    ],
)
def test_aeons_files_are_read_as_aeon_reads_them(tmp_path, name):
    path = series_real.series_file(name, tmp_path)
    cases, labels = series_real.as_aeon_reads(path)
    found, bad = rows(reader_for(path, DataOptions()), 1000)
    assert not bad
    assert [row["label"].lower() for row in found] == labels
    for row, case in zip(found, cases, strict=True):
        assert np.array_equal(measurements.read(row["series"]).values_TK.T, case, equal_nan=True)


def test_aeons_file_with_times(tmp_path):
    path = series_real.series_file("UnitTest/UnitTestTimeStamps_TRAIN", tmp_path)
    found, bad = rows(reader_for(path, DataOptions()), 1000)
    assert not bad
    assert [row["series"]["values"][:2] for row in found[:2]] == [[241.97, 241.75], [239.91, 240.89]]
    assert np.diff(measurements.read(found[0]["series"]).times_T).tolist() == [60, 60, 60]
