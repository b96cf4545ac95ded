"""The report as JSON and on the screen."""

import json
import math

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Group

from regraft.errors import ArtifactError, OptionsError
from regraft.evaluation import METRICS
from regraft.evaluation.answer_kind import fitting_names
from regraft.evaluation.judge import judge
from regraft.evaluation.ladder import Contender, climb
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.render import classes_table, confusion_table, draw, ladder_table, metrics_table, plain, verdict_panel
from regraft.evaluation.report import Report
from regraft.types import Ledger

QUICK = JudgeOptions(resamples=200)
KEYS = [
    "kind",
    "n",
    "confidence",
    "metrics",
    "per_class",
    "confusion",
    "ladder",
    "verdict",
    "verdict_detail",
    "ledger",
    "fingerprint",
    "seconds",
    "seconds_by_stage",
    "cost",
    "notes",
    "about",
]


def report(labels=("ham", "spam"), n=100, one_class=False, **changes):
    classes = len(labels)
    rng = np.random.default_rng(0)
    targets = np.zeros(n, dtype=int) if one_class else rng.integers(0, classes, n)
    old, new = (np.exp(rng.normal(size=(n, classes)) + shift * np.eye(classes)[targets]) for shift in (0, 2))
    old, new = (given / given.sum(axis=1, keepdims=True) for given in (old, new))
    contenders = [
        Contender(name="linear-probe", probabilities_NC=old, seconds=0.4, note="C = 0.1"),
        Contender(name="fitted", probabilities_NC=new, seconds=240),
    ]
    ledger = Ledger()
    ledger.add("rows without a label", 2, "mails.csv, row 17")
    made = {
        "kind": "fit",
        "judgement": judge(fitting_names(METRICS, "classes"), targets, new, labels, options=QUICK),
        "ladder": climb(contenders, targets, labels, fitting_names(METRICS, "classes"), options=QUICK),
        "ledger": ledger,
        "fingerprint": {"rows": "ab12", "order": "cd34"},
        "seconds": 12.5,
        "seconds_by_stage": {"read": 0.5, "train": 12.0},
        "notes": ["a note"],
        "about": {"base": "minilm"},
    }
    return Report(**(made | changes))


def test_the_keys_that_scripts_depend_on():
    written = report().to_json()
    assert list(written) == KEYS
    assert isinstance(written["verdict"], str)
    assert written["verdict"] == written["verdict_detail"]["verdict"] == "better"
    assert isinstance(written["seconds"], float)
    assert written["metrics"]["accuracy"].keys() == {"value", "low", "high", "n"}
    assert [rung["name"] for rung in written["ladder"]] == ["linear-probe", "fitted"]
    assert written["ladder"][0]["metrics"]["macro_f1"]["n"] == 100
    assert written["ladder"][1]["against_previous"]["p_value"] < 0.05
    assert written["ledger"] == {"rows without a label": {"count": 2, "examples": ["mails.csv, row 17"]}}


@pytest.mark.parametrize("one_class", [False, True])
def test_strict_json_there_and_back(one_class):
    made = report(one_class=one_class)
    written = json.loads(json.dumps(made.to_json(), allow_nan=False))
    again = Report.from_json(written)
    assert again.to_json() == written
    assert again.ladder.verdict == made.ladder.verdict
    assert again.judgement.confusion == made.judgement.confusion
    assert again.judgement.per_class[0] == made.judgement.per_class[0]
    assert again.ledger == made.ledger
    if one_class:
        assert written["metrics"]["roc_auc"]["value"] is None
        assert written["notes"] == ["roc_auc is undefined: the rows are all of one class", "a note"]
        assert math.isnan(again.judgement.metrics["roc-auc"].value)


COST = {"rows_per_s": 812.4, "tokens_per_s": 10100.0, "padding_ratio": 2.31, "mfu": 0.481, "peak_flops": 1.09e11}
COST |= {"precision": "fp32", "threads": 1, "cores": 2, "peak_memory_mb": 1203.0, "seconds_by_stage": {"train": 12.0}}


def test_the_cost_is_kept_and_drawn():
    made = report(cost=COST | {"mfu_note": math.nan})
    written = made.to_json()
    assert written["cost"] == COST | {"mfu_note": None}
    again = Report.from_json(json.loads(json.dumps(written, allow_nan=False)))
    assert again.to_json() == written
    text = " ".join(plain(draw(again)).split())
    assert "cost: training: 812 rows/s, 10,100 real tokens/s, padding ratio 2.31, MFU 0.48 of 109 GFLOP/s in fp32" in text
    assert "cost: time: train 12.0 s" in text
    assert "cost: machine: 1 thread on 2 cores, at most 1,203 MB of memory" in text


def test_reports_from_before_there_was_a_cost_are_read():
    written = report(cost=COST).to_json()
    del written["cost"]
    again = Report.from_json(written)
    assert again.cost == {}
    assert "cost" not in plain(draw(again))


def test_what_json_cannot_hold_becomes_none_anywhere():
    made = report(seconds=math.nan, about={"deep": [1.0, {"x": math.inf}]}, seconds_by_stage={"read": -math.inf})
    written = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert written["seconds"] is None
    assert written["about"] == {"deep": [1.0, {"x": None}]}
    assert written["seconds_by_stage"] == {"read": None}


def test_an_evaluation_without_a_ladder_has_no_verdict():
    written = report(kind="evaluate", ladder=None).to_json()
    assert (written["ladder"], written["verdict"], written["verdict_detail"]) == ([], None, None)
    assert Report.from_json(written).ladder is None


@pytest.mark.parametrize("damage", [lambda w: w.pop("metrics"), lambda w: w.update(ledger=3), lambda w: w.update(confusion={})])
def test_something_else_is_not_a_report(damage):
    written = report().to_json()
    damage(written)
    with pytest.raises(ArtifactError) as caught:
        Report.from_json(written)
    text = str(caught.value)
    assert text.startswith("this is not a report that can be read")
    assert "to do: make the report again with this version" in text
    missing = report().to_json()
    del missing["verdict"], missing["n"]
    with pytest.raises(ArtifactError, match="the key 'n' is missing"):
        Report.from_json(missing)


HOSTILE = (
    "a\x1b[31mred",
    "[bold]b[/bold]",
    "line\nbreak",
    "日本語の長い名前日本語の長い名前",
    "x" * 200,
    "\u202eright to left",
    "",
    "ok",
)


@pytest.mark.parametrize(
    "labels", [("ham", "spam"), HOSTILE, (*HOSTILE, "nine"), tuple(f"topic {i}" for i in range(40)), (True, False)]
)
def test_a_drawn_report_fits_80_columns_and_steers_no_terminal(labels):
    text = plain(draw(report(labels=labels, n=300)))
    assert max(cell_len(line) for line in text.splitlines()) <= 80
    assert not [sign for sign in text if not sign.isprintable() and sign != "\n"]
    assert "fitted is better than linear-probe" in " ".join(text.replace("│", " ").split())


def test_wide_letters_count_twice():
    wide = "日本語の長い名前日本語"
    lines = plain(classes_table(report(labels=(wide, "spam")).judgement.per_class)).splitlines()
    assert lines[2].startswith("日本語の長い名…  ")


def test_the_ladder_shows_intervals_verdict_and_notes():
    made = report()
    lines = plain(ladder_table(made.ladder)).splitlines()
    metric = made.ladder.steps[1].metrics["accuracy"]
    row = next(line for line in lines if line.startswith("fitted"))
    assert f"{100 * metric.value:.1f} [{100 * metric.low:.1f}, {100 * metric.high:.1f}]" in row
    assert "better" in row
    assert "<.001" in row
    assert row.endswith("4 min")
    assert "accuracy %" in lines[0]
    assert "linear-probe: C = 0.1" in lines


def test_the_bar_grows_with_the_value():
    made = report()
    lines = plain(ladder_table(made.ladder)).splitlines()
    low, high = (next(line for line in lines if line.startswith(name)).count("█") for name in ("linear-probe", "fitted"))
    assert 0 < low < high <= 6


def test_tables_say_what_is_undefined():
    made = report(one_class=True)
    text = plain(metrics_table(made.judgement.metrics))
    row = next(line for line in text.splitlines() if line.startswith("roc-auc"))
    assert row.split()[1:4] == ["?", "[?,", "?]"]
    assert "lower is better" in text
    classes = plain(classes_table(made.judgement.per_class))
    assert "undefined" in next(line for line in classes.splitlines() if line.startswith("spam"))


def test_many_classes_show_the_worst_and_the_most_frequent_mistakes():
    made = report(labels=tuple(f"topic {i}" for i in range(40)), n=800)
    text = plain(classes_table(made.judgement.per_class))
    assert "the 20 classes with the lowest f1 of 40" in text
    values = [row.f1.value for row in made.judgement.per_class]
    worst = int(np.argmin(values))
    assert text.splitlines()[2].startswith(f"topic {worst} ")
    mistakes = plain(confusion_table(made.judgement.confusion)).splitlines()
    matrix = made.judgement.confusion.matrix()
    np.fill_diagonal(matrix, 0)
    assert mistakes[0] == "most frequent mistakes"
    assert mistakes[-1].split()[-1].isdigit()
    assert int(mistakes[3].split()[-1]) == matrix.max()


def test_a_small_confusion_matrix_is_square_with_truth_in_rows():
    made = report()
    lines = plain(confusion_table(made.judgement.confusion)).splitlines()
    matrix = made.judgement.confusion.matrix()
    assert lines[0].split() == ["is", "\\", "taken", "for", "ham", "spam"]
    assert [int(cell) for cell in lines[2].split()[1:]] == matrix[0].tolist()
    assert [int(cell) for cell in lines[3].split()[1:]] == matrix[1].tolist()


def test_the_verdict_is_framed_and_drawn_first():
    made = report()
    assert plain(verdict_panel(made.ladder.verdict)).splitlines()[0].strip("╭─╮ ") == "better"
    drawn = draw(made)
    assert isinstance(drawn, Group)
    assert plain(drawn).startswith("╭")
    assert "ledger: rows without a label: 2" in plain(drawn)
    assert "note: a note" in plain(drawn)
    assert "verdict" not in plain(draw(report(ladder=None)))


def test_options_are_checked():
    with pytest.raises(OptionsError, match="did you mean 'resamples'"):
        JudgeOptions(resample=10)
    with pytest.raises(OptionsError) as caught:
        JudgeOptions(resamples=10, confidence=1.0)
    assert "2 problems" in str(caught.value)
