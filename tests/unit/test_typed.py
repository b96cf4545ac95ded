"""Values that fit are taken as pydantic would take them; everything else is pydantic's to judge."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import hypothesis.strategies as st
import pydantic
import pytest
from hypothesis import given, settings

from regraft.errors import OptionsError
from regraft.options import Field, build, json_schema, options
from regraft.typed import UNFIT, Before, Limits, made_exactly, record

STRICT: Any = {"extra": "forbid", "allow_inf_nan": False}


@dataclass(frozen=True)
class Part:
    __pydantic_config__ = STRICT

    size: int = 1


@dataclass(frozen=True)
class Whole:
    __pydantic_config__ = STRICT

    name: Annotated[str, Limits(min_length=1, max_length=4)]
    share: Annotated[float, Limits(ge=0.0, lt=1.0)] = 0.5
    count: Annotated[int | None, Limits(gt=0, le=9)] = None
    kind: Literal["a", "b", 3] | bool = "a"
    parts: tuple[Part, ...] = ()
    names: list[str] = field(default_factory=list)
    by_name: dict[str, Part] = field(default_factory=dict)
    anything: Any = None
    upper: Annotated[str, Before(lambda value: value.upper() if isinstance(value, str) else value)] = "X"


ADAPTER = pydantic.TypeAdapter(Whole)
_numbers = st.one_of(st.integers(-1, 12), st.floats(), st.booleans())
_simple = st.one_of(st.none(), _numbers, st.text(max_size=5), st.sampled_from(["a", "b", "3", "1", "\ud800"]))
_part = st.one_of(st.builds(Part), st.fixed_dictionaries({}, optional={"size": _simple, "odd": _simple}), _simple)
_values = st.fixed_dictionaries(
    {},
    optional={
        "name": _simple,
        "share": _simple,
        "count": _simple,
        "kind": _simple,
        "parts": st.one_of(_simple, st.lists(_part, max_size=3), st.tuples(_part)),
        "names": st.one_of(_simple, st.lists(_simple, max_size=2), st.tuples(_simple)),
        "by_name": st.one_of(_simple, st.dictionaries(_simple, _part, max_size=2)),
        "anything": st.one_of(_simple, st.lists(_simple)),
        "upper": _simple,
        "odd": _simple,
    },
)


@settings(max_examples=1000, deadline=None)
@given(_values)
def test_what_is_taken_is_what_pydantic_makes_of_it(values):
    made = made_exactly(Whole, values)
    if made is UNFIT:
        return
    reference = ADAPTER.validate_python(values)  # would raise for anything that it refuses
    assert made == reference
    assert [type(value) for value in vars(made).values()] == [type(value) for value in vars(reference).values()]


def test_values_that_were_written_by_this_program_fit():
    values = {"name": "n", "share": 0.25, "count": 3, "kind": 3, "parts": [{"size": 2}], "by_name": {"k": {"size": 5}}}
    made = made_exactly(Whole, values)
    assert made == Whole("n", 0.25, 3, 3, (Part(2),), [], {"k": Part(5)})
    assert made_exactly(Whole, {"name": "n", "parts": (Part(4),)}).parts == (Part(4),)
    first, second = (made_exactly(Whole, {"name": "n"}) for _ in range(2))
    assert first.names is not second.names


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"name": ""},
        {"name": "abcde"},
        {"name": 1},
        {"name": "\ud800"},
        {"name": "n", "share": 1.0},
        {"name": "n", "share": 0},
        {"name": "n", "share": float("nan")},
        {"name": "n", "count": 0},
        {"name": "n", "count": True},
        {"name": "n", "count": "3"},
        {"name": "n", "kind": "c"},
        {"name": "n", "kind": 3.0},
        {"name": "n", "parts": [{"size": "2"}]},
        {"name": "n", "parts": [{"odd": 2}]},
        {"name": "n", "names": "abc"},
        {"name": "n", "by_name": {1: {"size": 1}}},
        {"name": "n", "odd": 1},
    ],
)
def test_everything_else_is_left_to_pydantic(values):
    assert made_exactly(Whole, values) is UNFIT


def test_a_class_that_does_more_than_hold_fields_is_left_to_pydantic():
    @dataclass
    class Checked:
        size: int = 1

        def __post_init__(self) -> None:
            self.size += 1

    assert made_exactly(Checked, {"size": 1}) is UNFIT


@options
class SmallOptions:
    """Options with every way to say more about a field."""

    rank: Annotated[int, Field(ge=1, le=64, json_schema_extra={"flag": "--rank"})] = 8
    """Width."""

    foreign: Annotated[int, pydantic.Field(ge=1)] = 8
    """Said with pydantic's own."""

    parts: list[str] = pydantic.Field(default_factory=lambda: ["a"])
    """A default made with pydantic's own."""


def test_the_constructor_converts_and_refuses_as_pydantic_does():
    assert SmallOptions(rank="4").rank == 4  # type: ignore[arg-type]
    assert (SmallOptions(foreign=2).foreign, SmallOptions().parts, build(SmallOptions, {"rank": 3}).rank) == (2, ["a"], 3)
    for wrong in ({"rank": 0}, {"foreign": 0}):
        with pytest.raises(OptionsError, match="greater than or equal to 1"):
            SmallOptions(**wrong)
        with pytest.raises(OptionsError, match="greater than or equal to 1"):
            build(SmallOptions, wrong)
    told = json_schema(SmallOptions)["properties"]["rank"]
    assert (told["minimum"], told["maximum"], told["flag"], told["description"]) == (1, 64, "--rank", "Width.")


def test_options_that_fit_are_made_without_pydantic():
    code = (
        "import sys; from regraft.options import build; from regraft.verbs import AnswerOptions, ExportOptions\n"
        "build(AnswerOptions, {'batch_size': 4, 'machine': {'threads': 2}, 'data': {'delimiter': ';'}}); AnswerOptions(seed=3)\n"
        "print('pydantic' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


@record
class Place:
    """Where."""

    row: int
    names: list[str] = field(default_factory=list)
    file: str = ""


@dataclass(frozen=True, kw_only=True)
class Reference:
    row: int
    names: list[str] = field(default_factory=list)
    file: str = ""


def test_a_record_is_what_a_frozen_dataclass_is():
    made, reference = Place(row=1, file="a"), Reference(row=1, file="a")
    assert repr(made) == repr(reference).replace("Reference", "Place")
    assert dataclasses.asdict(made) == dataclasses.asdict(reference)
    assert [(one.name, one.kw_only) for one in dataclasses.fields(made)] == [
        (o.name, o.kw_only) for o in dataclasses.fields(reference)
    ]
    assert dataclasses.replace(made, row=2) == Place(row=2, file="a")
    assert made != Place(row=2, file="a")
    assert made != reference
    assert Place(row=1).names is not Place(row=1).names
    assert hash(Dot(x=1)) == hash(Dot(x=1))
    assert copy.deepcopy(made) == made
    for wrong, text in (
        ({}, "missing 1 required keyword-only arguments: row"),
        ({"row": 1, "rwo": 2}, "unexpected keyword argument 'rwo'"),
    ):
        with pytest.raises(TypeError, match=text):
            Place(**wrong)
    with pytest.raises(TypeError):
        Place(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.row = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        del made.row


@record
class Dot:
    x: int


def test_a_record_inherits_fields_and_keeps_methods_of_its_own():
    @record
    class Named(Dot):
        name: str = "n"

        def __repr__(self) -> str:
            return f"<{self.name}>"

    assert (Named(x=1).x, Named(x=1, name="m").name, repr(Named(x=1))) == (1, "m", "<n>")
    assert Named(x=1) != Dot(x=1)
    assert pydantic.TypeAdapter(Named).validate_python({"x": "3"}) == Named(x=3)
