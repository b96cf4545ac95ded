import pytest

from regraft import errors
from regraft.errors import (
    ArtifactError,
    DataError,
    GateError,
    InterruptedRunError,
    MachineError,
    OptionsError,
    Problem,
    RegraftError,
)


def test_a_problem_reads_as_what_where_got_expected_and_what_to_do():
    problem = Problem(what="the label is missing", where="mails.csv, row 17", got="''", expected="a label", fix="fill it in")
    assert str(problem) == (
        "the label is missing\n  where: mails.csv, row 17\n  got: ''\n  expected: a label\n  to do: fill it in"
    )
    assert problem.to_json() == {
        "what": "the label is missing",
        "where": "mails.csv, row 17",
        "got": "''",
        "expected": "a label",
        "fix": "fill it in",
    }


def test_empty_fields_are_not_shown():
    assert str(Problem(what="no")) == "no"
    assert Problem(what="no").to_json() == {"what": "no"}


def test_several_problems_are_numbered():
    error = DataError([Problem(what="one", fix="mend it"), Problem(what="two")])
    assert str(error) == "2 problems:\n1. one\n     to do: mend it\n2. two"
    assert [p.what for p in error.problems] == ["one", "two"]


@pytest.mark.parametrize(
    ("error", "code"),
    [(OptionsError, 2), (DataError, 2), (ArtifactError, 2), (GateError, 1), (MachineError, 1), (InterruptedRunError, 3)],
)
def test_exit_codes(error: type[RegraftError], code: int):
    assert error("x").exit_code == code


def test_every_error_stands_in_the_drawn_tree():
    assert errors.__doc__ is not None
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, RegraftError)]
    assert len(classes) >= 10
    for cls in classes:
        assert cls.__name__ in errors.__doc__


def test_nearest_ignores_case_and_ranks():
    assert errors.nearest("LABLE", ["text", "label"]) == ["label"]
    assert errors.nearest("qqqq", ["text"]) == []


def test_did_you_mean_lists_when_nothing_is_near():
    assert errors.did_you_mean("x", []) == "there is none"
    many = [f"name{i:02d}" for i in range(25)]
    assert errors.did_you_mean("zzz", many).endswith("(and 5 more)")
