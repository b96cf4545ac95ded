import dataclasses
import sys
import types
from collections.abc import Iterator
from typing import Annotated

import pytest
from pydantic import Field

from regraft.errors import OptionsError
from regraft.options import Among, Pick, build, describe, json_schema, merge, options, parse_assignment, to_json
from regraft.registry import Registry


@options
class LoraOptions:
    """Low rank."""

    rank: Annotated[int, Field(ge=1, le=64)] = 8
    """Width of the update."""


class Lora:
    Options = LoraOptions


@options
class InnerOptions:
    """Inner."""

    epochs: Annotated[int, Field(ge=0, json_schema_extra={"flag": "--epochs"})] = 3
    """How often every row is seen."""


@options
class OuterOptions:
    """Outer."""

    target: str
    """Column to predict."""

    tuning: Annotated[Pick, Among("tunings_for_this_test:TABLE")] = Pick("lora")
    """Which weights learn."""

    train: InnerOptions = Field(default_factory=InnerOptions)
    """How."""


@pytest.fixture(autouse=True)
def _tunings() -> Iterator[None]:
    module = types.ModuleType("tunings_for_this_test")
    module.TABLE = Registry("tunings", {"lora": "tunings_for_this_test:Lora"}, aliases={"low-rank": "lora"})  # type: ignore[attr-defined]
    module.Lora = Lora  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    yield
    del sys.modules[module.__name__]


def test_every_problem_is_reported_together_with_its_place_and_the_nearest_name():
    bad = {"tuning": {"name": "lora", "rnk": 3, "rank": 100}, "train": {"epocs": 1, "epochs": "x"}, "trgt": 1}
    with pytest.raises(OptionsError) as caught:
        build(OuterOptions, bad)
    text = str(caught.value)
    assert text.startswith("6 problems:")
    for piece in [
        "the option 'train.epochs' has a value it cannot take",
        "a valid integer",
        "there is no option 'epocs'\n     where: train\n     to do: did you mean 'epochs'?",
        "the option 'target' is required",
        "the option 'rank' has a value it cannot take\n     where: tuning, lora\n     got: 100",
        "there is no option 'rnk'\n     where: tuning, lora\n     to do: did you mean 'rank'?",
        "there is no option 'trgt'\n     where: OuterOptions\n     to do: did you mean 'target'?",
    ]:
        assert piece in text, text


def test_the_constructor_raises_the_same_error():
    with pytest.raises(OptionsError, match="there is no option 'rnak'"):
        LoraOptions(rnak=4)  # type: ignore[call-arg]
    with pytest.raises(OptionsError, match="cannot take"):
        LoraOptions(rank=0)


def test_options_are_frozen_and_keyword_only():
    made = LoraOptions(rank=4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.rank = 5  # type: ignore[misc]
    with pytest.raises(OptionsError):
        LoraOptions(4)  # type: ignore[misc]


def test_a_pick_is_a_name_a_mapping_or_an_alias():
    for given in ["lora", "low-rank", {"name": "lora"}, Pick("lora")]:
        assert build(OuterOptions, {"target": "a", "tuning": given}).tuning == Pick("lora")
    picked = build(OuterOptions, {"target": "a", "tuning": {"name": "lora", "rank": 2}}).tuning
    found, made = picked.resolve(sys.modules["tunings_for_this_test"].TABLE)
    assert found is Lora
    assert made == LoraOptions(rank=2)


def test_the_options_of_the_default_pick_can_be_given_without_its_name():
    assert build(OuterOptions, {"target": "a", "tuning": {"rank": 3}}).tuning == Pick("lora", {"rank": 3})
    assert OuterOptions(target="a", tuning={"rank": 3}).tuning == Pick("lora", {"rank": 3})  # type: ignore[arg-type]
    with pytest.raises(OptionsError, match="there is no option 'rnk'"):
        build(OuterOptions, {"target": "a", "tuning": {"rnk": 3}})


@pytest.mark.parametrize("wrong", [3, None])
def test_a_pick_of_nothing_is_refused(wrong: object):
    with pytest.raises(OptionsError, match="tuning"):
        build(OuterOptions, {"target": "a", "tuning": wrong})


def test_an_unknown_pick_offers_the_nearest():
    with pytest.raises(OptionsError, match=r"there is no 'lara' among the tunings(?s:.)*did you mean 'lora'"):
        build(OuterOptions, {"target": "a", "tuning": "lara"})


def test_json_round_trip():
    made = build(OuterOptions, {"target": "a", "tuning": {"name": "lora", "rank": 3}, "train": {"epochs": 7}})
    assert to_json(made) == {"target": "a", "tuning": {"name": "lora", "rank": 3}, "train": {"epochs": 7}}
    assert build(OuterOptions, to_json(made)) == made


def test_help_and_schema_come_from_the_field_docstrings():
    rows = {row.path: row for row in describe(OuterOptions)}
    assert list(rows) == ["target", "tuning", "train.epochs"]
    assert rows["train.epochs"].help == "How often every row is seen."
    assert rows["train.epochs"].flag == "--epochs"
    assert rows["train.epochs"].default == "3"
    assert rows["target"].required
    schema = json_schema(OuterOptions)
    assert schema["properties"]["target"]["description"] == "Column to predict."
    assert schema["additionalProperties"] is False
    assert schema["properties"]["tuning"]["anyOf"][0]["enum"] == ["lora"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=3", {"a": {"b": 3}}),
        ("a=true", {"a": True}),
        ("a=x=y", {"a": "x=y"}),
        ("a=", {"a": None}),
        ("a=[1, 2]", {"a": [1, 2]}),
        ("a={", {"a": "{"}),
    ],
)
def test_assignments_are_yaml(text: str, value: object):
    assert parse_assignment(text) == value


@pytest.mark.parametrize("text", ["a", "=3", "a..b=3", ""])
def test_a_malformed_assignment_says_how_to_write_it(text: str):
    with pytest.raises(OptionsError, match="--set takes KEY=VALUE"):
        parse_assignment(text)


def test_later_layers_win_and_a_changed_name_forgets_the_options():
    assert merge([{"t": {"name": "lora", "rank": 8}}, {"t": {"rank": 4}}]) == {"t": {"name": "lora", "rank": 4}}
    assert merge([{"t": {"name": "lora", "rank": 8}}, {"t": "full"}]) == {"t": "full"}
    assert merge([{"t": {"name": "lora", "rank": 8}}, {"t": {"name": "ia3"}}]) == {"t": {"name": "ia3"}}
    assert merge([{"t": {"name": "lora", "rank": 8}}, {"t": "lora"}]) == {"t": {"name": "lora", "rank": 8}}
    assert merge([{"a": {"x": 1}}, {"a": {"y": 2}}, {"b": 3}]) == {"a": {"x": 1, "y": 2}, "b": 3}


def test_an_inherited_field_keeps_its_help_and_its_limits():
    @options
    class Above:
        width: Annotated[int, Field(ge=1, json_schema_extra={"flag": "--width"})] = 3
        """How wide."""
        names: list[str] = Field(default_factory=lambda: ["a"])
        """Which names."""

    @options
    class Below(Above):
        depth: int = 2
        """How deep."""

    found = {item.path: (item.help, item.flag) for item in describe(Below)}
    assert found == {"width": ("How wide.", "--width"), "names": ("Which names.", ""), "depth": ("How deep.", "")}
    assert json_schema(Below)["properties"]["width"]["description"] == "How wide."
    assert (Below().width, Below().names, Below(names=["b"]).names) == (3, ["a"], ["b"])
    with pytest.raises(OptionsError, match="greater than or equal to 1"):
        Below(width=0)


def test_an_option_of_a_part_is_found_when_written_as_one_of_the_whole():
    with pytest.raises(OptionsError, match=r"did you mean 'train.epochs'"):
        build(OuterOptions, {"target": "a", "epochs": 1})


def test_every_flag_of_fit_is_described_with_its_plain_type():
    from regraft.verbs import FitOptions

    rows = {row.path: row for row in describe(FitOptions)}
    flags = {row.flag for row in rows.values() if row.flag}
    assert {"--target", "--out", "--learning-rate", "--batch-size", "--epochs", "--tuning", "--valid"} <= flags
    assert rows["valid"].type == "str"
    assert rows["train.learning_rate"].type == "float"
    assert not [row.path for row in rows.values() if "optional" in row.type.lower()]
