"""Which base reads which column: what flags say, what follows from them, and what is refused."""

from __future__ import annotations

import pytest

from regraft.errors import DataError, OptionsError
from regraft.options import build, to_json
from regraft.parts import settled
from regraft.training.stages import Stages
from regraft.verbs import FitOptions

ROWS = [
    {"id": i, "review": f"this is a long review number {i} of a thing", "age": i % 7, "town": "ab"[i % 2], "y": "pq"[i % 2]}
    for i in range(30)
]


def asked(data=ROWS, **options):
    notes = []
    stages = Stages(lambda event: notes.append(event.text) if hasattr(event, "text") else None)
    found = settled(data, build(FitOptions, {"target": "y", "out": "o", **options}), stages)
    return found, notes


def bases(found):
    return {name: base["name"] for name, base in found.base.options["parts"].items()}


def test_one_column_stays_as_it_was():
    for options in ({}, {"text": "review"}, {"table": "age,town", "base": "table"}):
        wanted = build(FitOptions, {"target": "y", "out": "o", **options})
        assert settled(ROWS, wanted, Stages(lambda _: None)) == wanted


def test_columns_of_two_kinds_are_fused_by_the_usual_bases():
    found, _ = asked(text="review", table=["age", "town"])
    assert found.base.name == "fusion"
    assert bases(found) == {"review": "minilm", "table": "table"}
    assert found.modality.name == "fusion"
    assert found.modality.options["parts"] == {
        "review": {"name": "text", "columns": ["review"]},
        "table": {"name": "table", "columns": ["age", "town"]},
    }
    assert found.columns == {}


def test_the_base_that_is_named_reads_its_kind():
    found, _ = asked(text="review", table="age", base={"name": "lstm", "width": 16})
    assert found.base.options["parts"] == {"review": {"name": "lstm", "width": 16}, "table": {"name": "table"}}
    found, _ = asked(text="review", table="age", base={"name": "table", "layers": 2})
    assert found.base.options["parts"]["table"] == {"name": "table", "layers": 2}
    assert bases(found)["review"] == "minilm"


def test_every_column_can_name_its_base():
    found, _ = asked(text='review=mlp,"town, city"', table="age=table", image="photo=conv")
    assert bases(found) == {"review": "mlp", "town, city": "minilm", "table": "table", "photo": "conv"}
    assert found.modality.options["parts"]["town, city"]["columns"] == ["town, city"]


def test_options_of_bases_joining_and_kinds_go_where_they_belong():
    found, _ = asked(
        text="review=mlp",
        table="*",
        base={"name": "fusion", "style": "gated", "parts": {"review": {"width": 32}, "table": {"layers": 2}}},
        modality={"max_length": 64, "parts": {"table": {"scale": "standard"}}},
    )
    assert found.base.options["style"] == "gated"
    assert found.base.options["parts"] == {
        "review": {"width": 32, "name": "mlp"},
        "table": {"name": "table", "layers": 2},
    }
    parts = found.modality.options["parts"]
    assert parts["review"] == {"name": "text", "columns": ["review"], "max_length": 64}
    assert parts["table"] == {"name": "table", "columns": [], "scale": "standard"}


def test_what_is_settled_settles_to_itself():
    found, _ = asked(text="review=mlp", table="age", modality={"max_length": 64})
    again = settled(ROWS, build(FitOptions, to_json(found)), Stages(lambda _: None))
    assert to_json(again) == to_json(found)


def test_columns_that_nobody_named_are_told_by_their_values():
    found, notes = asked(base="fusion")
    assert found.modality.options["parts"] == {
        "review": {"name": "text", "columns": ["review"]},
        "table": {"name": "table", "columns": []},
    }
    assert notes == ["by their values, columns are read so: 'review' as text"]
    found, _ = asked(fusion="review,age", base="fusion")
    assert found.modality.options["parts"]["table"]["columns"] == ["age"]


def test_a_part_of_the_name_of_another_is_called_otherwise():
    found, _ = asked(text="table", table="age")
    assert list(found.base.options["parts"]) == ["table", "table_"]


def refused(**options):
    with pytest.raises(OptionsError) as caught:
        asked(**options)
    (problem,) = caught.value.problems
    return problem


def test_a_base_that_reads_none_of_the_columns_is_refused():
    problem = refused(text="review", table="age", base="conv")
    assert problem.what == "the base 'conv' reads image, and no such column is named"
    assert problem.got == "--text review, --table age"
    assert problem.fix == "name its column with --image, or choose another base"


def test_parts_and_options_that_are_not_there_offer_the_nearest():
    problem = refused(text="review", table="age", base={"name": "fusion", "parts": {"reviews": "mlp"}})
    assert (problem.what, problem.fix) == ("there is no part 'reviews'", "did you mean 'review'?")
    problem = refused(text="review", table="age", modality={"max_lenght": 3})
    assert (problem.what, problem.fix) == ("no part has the option 'max_lenght'", "did you mean 'max_length'?")
    problem = refused(text="review", table="age", modality={"parts": {"review": {"max_lenght": 3}}})
    assert problem.what == "there is no option 'max_lenght'"
    assert problem.where == "modality.parts.review"


def test_an_unknown_column_offers_the_nearest():
    with pytest.raises(DataError) as caught:
        asked(fusion="reviw,age", base="fusion")
    (problem,) = caught.value.problems
    assert problem.what == "there is no column 'reviw'"
    assert problem.expected == "a column that --fusion names"
    assert problem.fix == "did you mean 'review'?"
