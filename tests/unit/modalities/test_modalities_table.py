"""Rows of a table as numbers: against scikit-learn, scipy and the calendar; what is missing, unseen or wrong."""

from __future__ import annotations

import datetime
import json
import math
from decimal import Decimal

import numpy as np
import pytest
import scipy.stats
from sklearn.preprocessing import QuantileTransformer, StandardScaler

from regraft.errors import ArtifactError, DataError
from regraft.modalities import table_values as cells
from regraft.modalities.digests import modality_digest
from regraft.modalities.table import STATE_FILE, Table, TableOptions
from regraft.modalities.table_columns import DATE_PARTS, normal_quantile

RNG = np.random.default_rng(0)


def learnt(raws, **options):
    return Table.learn(TableOptions(**options), lambda: iter([raws[:7], raws[7:]]))


def encoded(table, raws):
    return table.collate(table.encode(raws))[0]


def values(table, raws):
    return encoded(table, raws)["values"]


def numbers(column, **options):
    raws = [{"x": value} for value in column]
    return learnt(raws, **options), raws


def test_standard_scaling_is_scikit_learns():
    column = RNG.lognormal(3, 2, 500)
    table, raws = numbers(column.tolist(), scale="standard")
    expected = StandardScaler().fit_transform(column[:, None])
    np.testing.assert_allclose(values(table, raws), expected, rtol=1e-5, atol=1e-6)
    assert values(table, [{"x": 1e30}])[0, 0] == 100.0


@pytest.mark.parametrize("column", [RNG.lognormal(0, 1, 3000), RNG.integers(0, 6, 900).astype(float)], ids=["free", "ties"])
def test_quantile_scaling_is_scikit_learns_inside_the_range(column):
    table, raws = numbers(column.tolist())
    theirs = QuantileTransformer(output_distribution="normal", n_quantiles=len(column) // 30).fit_transform(column[:, None])
    ours = values(table, raws)
    inside = (column > column.min()) & (column < column.max())
    np.testing.assert_allclose(ours[inside], theirs[inside], rtol=1e-4, atol=1e-5)
    edge = scipy.stats.norm.ppf(0.5 / len(column))
    low, high = values(table, [{"x": -1e9}, {"x": 1e9}])[:, 0]
    assert [low, high] == pytest.approx([edge, -edge], abs=1e-4)


def test_very_many_numbers_are_thinned_evenly():
    column = RNG.permutation(np.arange(450_000.0))
    raws = [[{"x": value} for value in part] for part in np.array_split(column, 9)]
    table = Table.learn(TableOptions(kinds={"x": "number"}), lambda: iter(raws))
    expected = np.linspace(0, 449_999, len(table.learnt[0].knots))
    np.testing.assert_allclose(table.learnt[0].knots, expected, atol=3000)
    assert len(table.learnt[0].knots) == 1000
    assert table.learnt[0].rows == 450_000


def test_normal_quantiles_are_scipys():
    shares = np.concatenate([np.linspace(0.001, 0.999, 999), 10.0 ** np.arange(-300, -1, 7), [0.5, 0.075, 0.925]])
    np.testing.assert_allclose(normal_quantile(shares), scipy.stats.norm.ppf(shares), rtol=1e-13, atol=1e-15)


def test_a_missing_number_is_zero_and_marked():
    table, _ = numbers([1.0, None, 3.0, 5.0, "", float("nan")], scale="none")
    assert values(table, [{"x": 3}, {"x": None}]).tolist() == [[3.0, 0.0], [0.0, 1.0]]


def test_a_number_that_is_never_missing_in_training_has_no_mark_and_is_put_at_the_mean():
    table, _ = numbers([1.0, 2.0, 6.0], scale="standard")
    assert values(table, [{"x": None}]).tolist() == [[0.0]]


def test_categories_rare_unseen_and_missing():
    raws = [{"c": value} for value in ["b"] * 3 + ["a"] * 3 + ["d"] * 4 + ["rare", None]]
    table = learnt(raws)
    assert table.learnt[0].values == ("d", "a", "b")
    ids = encoded(table, [{"c": value} for value in ("d", "a", "b", "rare", "never", None, " a ")])["ids"]
    assert ids[:, 0].tolist() == [2, 3, 4, 1, 1, 0, 3]
    assert table.layout.sizes == (5,)
    kept = learnt(raws, min_count=1)
    assert kept.learnt[0].values == ("d", "a", "b", "rare")


def test_the_categories_of_columns_are_counted_one_after_another():
    raws = [{"c": "xy"[i % 2], "n": i, "d": "uvw"[i % 3]} for i in range(12)]
    table = learnt(raws, scale="none")
    assert table.columns == ("n", "c", "d")
    found = encoded(table, [{"c": "y", "d": "w", "n": 7, "more": [1]}])
    assert found["ids"].dtype == np.int64
    assert found["ids"].tolist() == [[3, 4 + 4]]
    assert found["values"].tolist() == [[7.0]]


def test_yes_and_no():
    table = learnt([{"b": value} for value in ("yes", "No", "YES", "no", None, "yes")])
    assert values(table, [{"b": value} for value in ("yes", "no", True, 0, "false", None)]).tolist() == [
        [1.0, 0.0],
        [-1.0, 0.0],
        [1.0, 0.0],
        [-1.0, 0.0],
        [-1.0, 0.0],
        [0.0, 1.0],
    ]


def test_dates_are_when_and_what_comes_round_again():
    dates = [datetime.datetime(2020, 1, 1) + datetime.timedelta(hours=37 * i) for i in range(300)]
    table = learnt([{"d": date.isoformat()} for date in dates])
    found = values(table, [{"d": date} for date in dates])
    assert found.shape == (300, DATE_PARTS)
    seconds = np.array([date.replace(tzinfo=datetime.UTC).timestamp() for date in dates])
    np.testing.assert_allclose(found[:, 0], (seconds - seconds.mean()) / seconds.std(), rtol=1e-5, atol=1e-6)
    turns = [(d.hour / 24, d.weekday() / 7, (d.day - 1) / 31, (d.timetuple().tm_yday - 1) / 366) for d in dates]
    angles = 2 * math.pi * np.array(turns)
    np.testing.assert_allclose(found[:, 1::2], np.sin(angles), atol=1e-6)
    np.testing.assert_allclose(found[:, 2::2], np.cos(angles), atol=1e-6)


@pytest.mark.parametrize(
    "same",
    [
        ("2024-02-29T12:00:00+02:00", datetime.datetime(2024, 2, 29, 10), "2024-02-29 10:00:00Z", "20240229T100000"),
        ("1969-12-31", datetime.date(1969, 12, 31), "1969-12-31T00:00"),
    ],
)
def test_the_same_moment_in_many_forms(same):
    assert len({cells.instant(value) for value in same}) == 1


def test_constant_and_empty_columns_are_dropped_with_a_note():
    raws = [{"a": i, "one": 3, "word": "x", "none": None, "gap": None if i % 3 else 1} for i in range(12)]
    table = learnt(raws)
    assert table.columns == ("a", "gap")
    assert table.notes == (
        "the column 'one' is dropped: it is the same in every training row",
        "the column 'word' is dropped: it is the same in every training row",
        "the column 'none' is dropped: it is missing in every training row",
    )
    assert table.problem({"a": 1, "gap": 2}) == ""
    with pytest.raises(DataError, match=r"no column says anything\n  got: 'a': it is the same in every training row"):
        learnt([{"a": 1}] * 9)
    with pytest.raises(DataError, match="there is no row to learn from"):
        learnt([])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"n": "abc"}, "the column 'n' holds 'abc', where a number is expected"),
        ({"n": "1,5"}, "the column 'n' holds '1,5', where a number such as 1.5 is expected"),
        ({"n": "1_000"}, "the column 'n' holds '1_000', where a number is expected"),
        ({"n": math.inf}, "the column 'n' holds an infinite number, where a finite one is expected"),
        ({"n": 1e31}, "the column 'n' holds 1e+31, where a number up to 1e+30 is expected"),
        ({"n": [1, 2]}, "the column 'n' holds a list ([1, 2]), where a number is expected"),
        ({"n": {"a": 1}}, "the column 'n' holds an object ({'a': 1}), where a number is expected"),
        ({"b": "maybe"}, "the column 'b' holds 'maybe', where true or false is expected"),
        (
            {"d": "31.12.2024"},
            "the column 'd' holds '31.12.2024', where a date such as 2024-12-31 or 2024-12-31T23:59 is expected",
        ),
        ({"d": 7}, "the column 'd' holds 7, where a date such as 2024-12-31 is expected"),
        ({"c": ["x"]}, "the column 'c' holds a list (['x']), where a text, a number, true or false is expected"),
        ({"n": "x", "b": "q"}, "the column 'n' holds 'x', where a number is expected; the column 'b' holds 'q', where"),
        ({"n": None, "b": "", "d": None, "c": " "}, "every value of the row is missing"),
    ],
)
def test_what_is_wrong_with_a_row_names_the_column(row, said):
    sound = {"n": 1, "b": "no", "d": "2024-01-01", "c": "x"}
    other = {"n": 2, "b": "yes", "d": "2024-02-01", "c": "z"}
    table = learnt([sound, other] * 6)
    assert table.problem(sound) == ""
    assert table.problem({**sound, **row}).startswith(said)
    with pytest.raises(DataError) as caught:
        table.encode([sound, {**sound, **row}]) if "missing" not in said else table.encode([sound, {}])
    assert "row 2 of those given" in str(caught.value)


def test_missing_columns_and_rows_that_are_none():
    table = learnt([{"age": i, "town": "ab"[i % 2]} for i in range(9)])
    assert table.problem({"aeg": 1, "town": "a"}) == "the column 'age' is missing; did you mean 'aeg'?"
    assert table.problem([1, 2]) == "a row with the columns 'age', 'town' is expected, got list ([1, 2])"
    with pytest.raises(DataError, match=r"the column 'age' holds 'x', where a number is expected\n  where: training row 8"):
        learnt([*({"age": i} for i in range(7)), {"age": "x"}], kinds={"age": "number"})


def test_cells_of_every_kind_of_python():
    class NAType:
        """As pandas has it: comparing it gives itself, which is neither true nor false."""

    assert cells.number(Decimal("1.5")) == 1.5
    assert cells.number(np.float32(0.5)) == 0.5
    assert cells.number(NAType()) is None
    assert cells.category(np.int64(3)) == cells.category(3.0) == cells.category("3") == "3"
    assert cells.category(datetime.date(2024, 1, 2)) == "2024-01-02"
    raw = {"n": Decimal("1.5"), "d": datetime.datetime(2024, 1, 2, 3), "c": np.str_("x"), "m": float("nan")}
    sound = [{**raw, "n": i, "m": i, "c": "xz"[i % 2], "d": datetime.datetime(2024, 1, 1 + i)} for i in range(9)]
    table = learnt([*sound, {**raw, "d": raw["d"]}])
    again = json.loads(json.dumps(table.as_json(raw), allow_nan=False))
    assert again == {"n": 1.5, "d": "2024-01-02T03:00:00", "m": None, "c": "x"}
    one, two = encoded(table, [raw]), encoded(table, [again])
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_one_position_covers_all_columns():
    table = learnt([{"a": i, "c": "xy"[i % 2]} for i in range(6)])
    (row,) = table.encode([{"a": 1, "c": "x"}])
    assert row.spans_T2.tolist() == [[0, 2]]
    assert (row.length, table.longest) == (1, 1)


def test_only_one_kind_of_input_where_there_is_only_one_kind_of_column():
    only_numbers, only_words = learnt([{"a": i} for i in range(5)]), learnt([{"c": "xy"[i % 2]} for i in range(6)])
    assert (list(only_numbers.padding), list(only_words.padding)) == (["values"], ["ids"])
    assert list(encoded(only_words, [{"c": "x"}])) == ["ids"]


def test_the_state_travels_as_json(tmp_path):
    raws = Table.example(RNG.random((40, 2)), 0)
    table = learnt(raws)
    table.save(tmp_path)
    again = Table.load(tmp_path, json.loads(json.dumps(table.spec())))
    assert again.learnt == table.learnt
    assert modality_digest(again) == modality_digest(table)
    state = json.loads((tmp_path / STATE_FILE).read_text())
    state["columns"][0]["deviation"] = 0
    (tmp_path / STATE_FILE).write_text(json.dumps(state))
    with pytest.raises(ArtifactError, match="what was learnt about the table cannot be read"):
        Table.load(tmp_path, table.spec())
    (tmp_path / STATE_FILE).unlink()
    with pytest.raises(ArtifactError, match="restore the file from its source, or fit again"):
        Table.load(tmp_path, table.spec())


def test_made_up_rows_can_be_answered_and_survive_json():
    table = learnt([{**raw, "odd": i} for i, raw in enumerate(Table.example(RNG.random((60, 3)), 0))])
    made = table.made_up(RNG.random((30, 4)), 0)
    assert {table.problem(raw) for raw in made} == {""}
    assert made == json.loads(json.dumps(made, allow_nan=False))
    assert len({str(raw) for raw in made}) > 20
