"""What a fit does where nothing was said: rules, what they leave alone, and that they are what the study chose."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from regraft.defaults import LARGE, RULES, SMALL, UNTRAINED, check, rule_for, settled, size_of
from regraft.errors import OptionsError
from regraft.options import Pick, build
from regraft.starting import as_it_goes_on
from regraft.verbs import FitOptions

WEIGHTS = {UNTRAINED: 0, SMALL: 4_652_008, LARGE: 22_713_216}
SIZES = {"minilm": LARGE, "efficientnet-lite0": SMALL, "from scratch": UNTRAINED}
BENCH = Path(__file__).parents[2] / "bench"


def options(**given: Any) -> FitOptions:
    return build(FitOptions, {"target": "label", "out": "somewhere", **given})


def decided(
    rows: int, *, size: str = LARGE, paired: bool = False, several: bool = False, **given: Any
) -> tuple[Any, list[str]]:
    base = SimpleNamespace(pretrained=size != UNTRAINED, card=lambda: SimpleNamespace(parameters=WEIGHTS[size]))
    task = SimpleNamespace(paired=paired, several=several)
    notes: list[str] = []
    return settled(options(**given), base, rows, task, notes.append), notes  # type: ignore[arg-type]


@pytest.mark.parametrize("size", RULES)
def test_every_number_of_rows_has_one_rule_and_more_rows_never_mean_more_epochs(size: str) -> None:
    found = [rule_for(rows, size).epochs for rows in (1, 10, 200, 201, 1000, 1001, 5000, 5001, 10**7)]
    assert found == sorted(found, reverse=True)
    *ends, last = (rule.rows for rule in RULES[size])
    assert last is None
    assert ends == sorted({end for end in ends if end is not None})


def test_what_was_said_wins_and_the_rest_is_told() -> None:
    wanted, notes = decided(200, tuning="lora")
    assert wanted.tuning == Pick("lora")
    assert wanted.train.epochs == rule_for(200, LARGE).epochs
    assert len(notes) == 1
    assert "tuning" not in notes[0]
    wanted, notes = decided(200, tuning="full", train={"epochs": 2})
    assert (wanted.tuning, wanted.train.epochs, notes) == (Pick("full"), 2, [])
    wanted, notes = decided(200, train={"epochs": 0})
    assert (wanted.tuning, wanted.train.epochs) == (rule_for(200, LARGE).tuning, 0)


def test_options_of_every_tuning_need_no_name() -> None:
    wanted, _ = decided(200, tuning={"name": "", "layer_decay": 0.9})
    assert wanted.tuning.options["layer_decay"] == 0.9
    assert wanted.tuning.name == rule_for(200, LARGE).tuning.name


def test_a_base_of_unknown_size_counts_as_large() -> None:
    unknown: Any = SimpleNamespace(pretrained=True, card=lambda: SimpleNamespace(parameters=0))
    assert size_of(unknown) == LARGE


def test_a_head_alone_learns_longer_than_what_lies_below() -> None:
    wanted, _ = decided(500, tuning="head")
    assert wanted.train.epochs == rule_for(500, LARGE).head_epochs > rule_for(500, LARGE).epochs


@pytest.mark.parametrize(
    "about",
    [{"paired": True}, {"several": True}, {"size": UNTRAINED}, {"train": {"regularize": ["ema"]}}],
    ids=["paired", "several targets", "untrained", "regularised"],
)
def test_all_weights_learn_at_once_where_a_head_cannot_go_first(about: dict[str, Any]) -> None:
    wanted, _ = decided(200, **about)
    assert wanted.tuning.name == "full"


def test_what_starts_from_something_fitted_learns_all_weights_at_once() -> None:
    parent: Any = object()
    assert as_it_goes_on(options(), parent).tuning == Pick("full")
    assert as_it_goes_on(options(tuning="lora"), parent).tuning == Pick("lora")
    assert as_it_goes_on(options(), None).tuning == Pick("")


def test_an_option_without_a_tuning_that_has_it_is_refused() -> None:
    with pytest.raises(OptionsError) as refused:
        check(Pick("", {"rank": 8, "raank": 8, "layer_decay": 0.9}))
    text = str(refused.value)
    assert "'rank'" in text
    assert "--tuning lora" in text
    assert "'raank'" in text
    assert "layer_decay" not in text.split("'raank'")[0]


def test_the_rules_are_what_the_study_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    spec = importlib.util.spec_from_file_location("defaults_study", BENCH / "defaults.py")
    assert spec is not None
    assert spec.loader is not None
    study = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "defaults_study", study)
    spec.loader.exec_module(study)
    results = study.read(study.RAW)
    for kind, rows in study.sizes(results):
        usual = study.chosen(results, kind, rows)
        assert study.USUAL[kind][rows] == usual, "rate, batch and warm-up are moved around what was chosen"
        picked = (study.RECIPES[kind][rows] | study.moved(kind, rows))[next(iter(study.surely(results, kind, rows)), usual)]
        wanted, _ = decided(rows - rows // 10, size=SIZES[kind])
        assert {"name": wanted.tuning.name, **wanted.tuning.options} == picked["tuning"], (kind, rows)
        assert {name: getattr(wanted.train, name) for name in picked["train"]} == picked["train"], (kind, rows)
