"""Slices: which groups rows make, and how each is held against the rest."""

import datetime
import json

import numpy as np
import pytest
import scipy.stats

from regraft.evaluation.answer_kind import kind_of
from regraft.evaluation.groups import newcombe
from regraft.evaluation.holm import holm
from regraft.evaluation.metadata import Describing, Metadata, column_problems, described, read_columns, wanted_columns
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.scripts import script_of
from regraft.evaluation.slices import SliceRow, computed_columns, groups_of, slices_of

OPTIONS = JudgeOptions(resamples=300)


def counts(column):
    return {group.value: int(group.inside_N.sum()) for group in groups_of(column)}


def test_values_are_groups_and_missing_ones_are_a_group_of_their_own():
    column = described("country", ["IT", "DE", None, "IT", "", float("nan")] * 5)
    assert counts(column) == {"IT": 10, "DE": 5, "(missing)": 15}
    assert counts(described("old", [True, False, None] * 9)) == {"false": 9, "true": 9, "(missing)": 9}
    assert counts(described("floor", ["10", "2", "2"] * 7)) == {"2": 14, "10": 7}, "numbers stand in their order"


def test_rare_values_stand_together_unless_the_column_is_asked_for():
    values = ["a"] * 30 + ["b"] * 20 + ["c", "d", "e"]
    assert counts(described("kind", values)) == {"a": 30, "b": 20, "(other values)": 3}
    assert counts(described("kind", values, asked=True)) == {"a": 30, "b": 20, "c": 1, "d": 1, "e": 1}
    many = [f"v{number:02d}" for number in range(30) for _ in range(30 - number)]
    found = counts(described("kind", many, asked=True))
    assert len(found) == 21
    assert found["(other values)"] == sum(range(1, 11))


def test_numbers_are_cut_at_their_quartiles():
    numbers = np.random.default_rng(0).permutation(100) + 1
    assert counts(described("age", [str(number) for number in numbers])) == {
        "1 to 25": 25,
        "26 to 50": 25,
        "51 to 75": 25,
        "76 to 100": 25,
    }
    cut = [*range(1, 41), *[128] * 60]
    assert counts(described("length", cut)) == {"1 to 25": 25, "26 to 40": 15, "128": 60}, "what was cut stands apart"


def test_dates_are_months_or_years():
    start = datetime.date(2024, 1, 15)
    months = [start + datetime.timedelta(days=31 * number) for number in range(6)] * 2
    assert list(counts(described("sent", months))) == ["2024-01", "2024-02", "2024-03", "2024-04", "2024-05", "2024-06"]
    texts = [f"{1990 + number % 40}-03-{1 + number % 28:02d} 10:00:00" for number in range(80)]
    found = counts(described("sent", texts))
    assert len(found) == 40
    assert found["1990"] == 2
    stamps = [datetime.datetime(2023, 5, 1, 12), datetime.datetime(2023, 6, 1, 12)] * 3
    assert counts(described("sent", stamps)) == {"2023-05": 3, "2023-06": 3}


def test_what_looks_like_a_date_and_is_none_stays_a_text():
    assert described("code", ["2024-13-45", "2024-01-01"] * 3).scale_V is None
    assert described("code", ["2024-01-01x", "2024-01-01"] * 3).scale_V is None


@pytest.mark.parametrize("values", [[f"name {number}" for number in range(2000)], ["a" * 500, "b"] * 4])
def test_names_and_long_texts_are_given_up(values):
    describing = Describing("body")
    describing.add(values)
    assert describing.given_up
    assert describing.finish() is None
    asked = Describing("body", asked=True)
    asked.add(values)
    assert asked.finish().name == "body"


def test_a_column_that_tells_no_rows_apart_is_none():
    assert described("constant", ["x"] * 9) is None
    assert described("empty", [None] * 9) is None
    assert groups_of(described("constant", ["x"] * 9, asked=True)) == []


def test_a_column_that_is_given_up_is_not_read_to_its_end():
    read = []

    def chunks():
        for number in range(10):
            read.append(number)
            yield [f"{number} {row}" for row in range(400)]

    assert read_columns({"id": False}, {"id": chunks()}) == ()
    assert read == [0, 1, 2]


def test_columns_are_those_of_few_values_or_those_asked_for():
    there = ["id", "sex", "body", "label", "country"]
    assert wanted_columns(OPTIONS, there, besides=["body", "label"]) == {"id": False, "sex": False, "country": False}
    asked = JudgeOptions(slices=("country", "label"), fairness="sex")
    assert list(wanted_columns(asked, there, besides=["label"]).items()) == [("sex", True), ("label", True), ("country", True)]
    assert wanted_columns(JudgeOptions(slices=()), there) == {}


def test_columns_that_are_not_there_are_refused_together():
    problems = column_problems(JudgeOptions(slices=("contry", "id"), fairness="sx"), ["id", "country", "sex"], "mails.csv")
    assert [problem.what for problem in problems] == [
        "there is no column 'contry' to group rows by",
        "there is no column 'sx' to group rows by",
    ]
    assert problems[0].fix == "did you mean 'country'?"
    assert problems[1].expected == "a column of single values, as judge.fairness names it"


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Good morning, Zoë!", "Latin"),
        ("Доброе утро", "Cyrillic"),
        ("Καλημέρα", "Greek"),
        ("صباح الخير", "Arabic"),
        ("早上好", "Han"),
        ("おはよう日本", "Japanese"),
        ("좋은 아침", "Hangul"),
        ("สวัสดี", "Thai"),
        ("नमस्ते", "Devanagari"),
        ("½ 3.14 😀", "no letters"),
        ("hello привет", "mixed"),
    ],
)
def test_the_script_of_a_text(text, script):
    assert script_of(text) == script


def classes(rows=400, seed=0):
    rng = np.random.default_rng(seed)
    country = rng.choice(["IT", "DE", "FR"], rows)
    targets = rng.integers(0, 2, rows)
    wrong = rng.random(rows) < np.where(country == "IT", 0.4, 0.1)
    given = np.where(wrong, 1 - targets, targets)
    sure = rng.uniform(0.55, 0.99, rows)[:, None]
    outputs = np.where(np.arange(2) == given[:, None], sure, 1 - sure)
    known = Metadata(
        columns=(described("country", country.tolist()),),
        computed=computed_columns(rng.integers(5, 90, rows), ["Latin", "Han"] * (rows // 2), ["country"]),
        numbers_N=np.arange(1, rows + 1),
    )
    return kind_of("classes", ("ham", "spam")), targets, outputs, known, country


def by_name(rows):
    return {(row.column, row.value): row for row in rows}


def test_each_slice_is_held_against_the_rest():
    kind, targets, outputs, known, country = classes()
    rows, notes = slices_of(kind, targets, outputs, known, OPTIONS, 0)
    right = outputs.argmax(axis=1) == targets
    assert notes == []
    assert list(dict.fromkeys(row.column for row in rows)) == ["country", "length", "script", "class", "confidence"]
    for value in ("IT", "DE", "FR"):
        inside, row = country == value, by_name(rows)["country", value]
        table = [[right[inside].sum(), (~right[inside]).sum()], [right[~inside].sum(), (~right[~inside]).sum()]]
        assert row.p_value == pytest.approx(scipy.stats.fisher_exact(table).pvalue)
        assert (row.metric, row.found.n, row.found.value) == ("accuracy", inside.sum(), right[inside].mean())
        expected = newcombe((right[inside].sum(), inside.sum()), (right[~inside].sum(), (~inside).sum()))
        np.testing.assert_allclose(row.difference, expected)
    np.testing.assert_allclose([row.p_holm for row in rows], holm([row.p_value for row in rows]))
    assert by_name(rows)["country", "IT"].p_holm < 0.001
    assert by_name(rows)["script", "Han"].found.n == 200
    assert by_name(rows)["class", "spam"].found.value == pytest.approx(right[targets == 1].mean())
    confidence = [row for row in rows if row.column == "confidence"]
    assert sum(row.found.n for row in confidence) == 400


def test_the_same_seed_gives_the_same_slices_and_json_keeps_them():
    kind, targets, outputs, known, _ = classes()
    rows, again = (slices_of(kind, targets, outputs, known, OPTIONS, 7)[0] for _ in range(2))
    assert rows == again
    told = json.loads(json.dumps([row.to_json() for row in rows], allow_nan=False))
    assert [SliceRow.from_json(one).to_json() for one in told] == told
    assert set(told[0]) == {"column", "value", "n", "metrics", "difference", "p_value", "p_holm"}
    assert told[0]["metrics"]["accuracy"].keys() == {"value", "low", "high", "n"}


def test_a_computed_name_makes_way_for_a_column():
    known = Metadata(
        columns=(described("length", ["long", "short"] * 30), described("class", ["x", "y"] * 30)),
        computed=computed_columns(np.arange(60), None, ["length", "class"]),
        numbers_N=np.arange(60),
    )
    targets = np.arange(60) % 2
    rows, _ = slices_of(kind_of("classes", ("a", "b")), targets, np.eye(2)[targets], known, OPTIONS, 0)
    assert {row.column for row in rows} == {"length", "class", "(length)", "(class)"}


def test_numbers_are_sliced_by_target_and_judged_by_their_distance():
    rng = np.random.default_rng(0)
    targets, sex = rng.normal(size=200), rng.choice(["f", "m"], 200)
    outputs = (targets + rng.normal(size=200) * np.where(sex == "f", 2.0, 0.5))[:, None]
    known = Metadata(columns=(described("sex", sex.tolist()),), numbers_N=np.arange(200))
    rows = by_name(slices_of(kind_of("numbers"), targets, outputs, known, OPTIONS, 0)[0])
    error = np.abs(outputs[:, 0] - targets)
    assert rows["sex", "f"].metric == "mae"
    assert rows["sex", "f"].found.value == pytest.approx(error[sex == "f"].mean())
    assert rows["sex", "f"].difference[0] == pytest.approx(error[sex == "f"].mean() - error[sex == "m"].mean())
    assert rows["sex", "f"].p_holm < 0.05
    assert len([1 for column, _ in rows if column == "target"]) == 4


def test_labels_are_classes_that_overlap():
    rng = np.random.default_rng(0)
    targets = (rng.random((150, 3)) < 0.4).astype(int)
    outputs = np.clip(targets * 0.6 + rng.random((150, 3)) * 0.5, 0, 1)
    rows = by_name(
        slices_of(kind_of("label-sets", ("a", "b", "c")), targets, outputs, Metadata(numbers_N=np.arange(150)), OPTIONS, 0)[0]
    )
    given = outputs >= 0.5
    for place, label in enumerate("abc"):
        inside = targets[:, place] > 0
        right, total = (given & (targets > 0))[inside].sum(), given[inside].sum() + targets[inside].sum()
        assert rows["class", label].found.n == inside.sum()
        assert rows["class", label].found.value == pytest.approx(2 * right / total)
        assert rows["class", label].metric == "micro-f1"


def test_ranks_are_judged_by_how_far_off_they_are():
    targets = np.arange(120) % 3
    outputs = np.eye(3)[np.minimum(targets + (np.arange(120) < 30), 2)]
    known = Metadata(columns=(described("half", ["first"] * 60 + ["second"] * 60),), numbers_N=np.arange(120))
    rows = by_name(slices_of(kind_of("ranks", (1, 2, 3)), targets, outputs, known, OPTIONS, 0)[0])
    assert rows["half", "first"].metric == "rank-mae"
    assert rows["half", "first"].found.value == pytest.approx(20 / 60)
    assert rows["half", "second"].found.value == 0.0


def test_pairs_are_found_among_all_rows_and_counted_by_slice():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(60, 8))
    second = np.where(np.arange(60)[:, None] < 30, first, rng.normal(size=(60, 8)))
    known = Metadata(columns=(described("half", ["first"] * 30 + ["second"] * 30),), numbers_N=np.arange(60))
    outputs = np.concatenate([first, second], axis=1)
    rows = by_name(slices_of(kind_of("pairs", ("text", "image")), np.arange(60), outputs, known, OPTIONS, 0)[0])
    assert set(rows) == {("half", "first"), ("half", "second")}
    assert rows["half", "first"].metric == "recall-at-10"
    assert rows["half", "first"].found.value == 1.0
    assert rows["half", "second"].found.value < 0.5


def test_a_slice_of_all_rows_of_one_class_is_none():
    kind = kind_of("classes", ("a", "b"))
    rows, _ = slices_of(kind, np.zeros(9, dtype=int), np.tile([0.7, 0.3], (9, 1)), Metadata(numbers_N=np.arange(9)), OPTIONS, 0)
    assert rows == ()


def test_too_many_slices_are_cut_and_said(monkeypatch):
    monkeypatch.setattr("regraft.evaluation.slices.MOST_SLICES", 3)
    kind, targets, outputs, known, _ = classes()
    rows, notes = slices_of(kind, targets, outputs, known, OPTIONS, 0)
    assert len(rows) == 3
    assert notes[0].startswith("the first 3 of ")
    assert "judge.slices" in notes[0]
