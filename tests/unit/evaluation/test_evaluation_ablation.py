"""What a part is worth: the same metrics and the same paired test as everywhere else, in the report and on the screen."""

from __future__ import annotations

import json

import numpy as np
import pytest

from regraft.errors import DataError
from regraft.evaluation.ablation import ablation
from regraft.evaluation.answer_kind import kind_of
from regraft.evaluation.compare import mcnemar
from regraft.evaluation.ladder import Contender
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.render import ablation_table, draw, plain
from regraft.evaluation.report import Report

QUICK = JudgeOptions(resamples=200)
KIND = kind_of("classes", ("no", "yes"))


def answers(right, targets):
    """Probabilities of two classes: 0.9 for the true one where `right`, else for the other."""
    chosen = np.where(right, targets, 1 - targets)
    return np.where(np.arange(2) == chosen[:, None], 0.9, 0.1)


@pytest.fixture
def made():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, 120)
    whole, without = np.arange(120) < 110, (np.arange(120) < 70) | (np.arange(120) >= 115)
    contenders = [
        Contender(name="without text", probabilities_NC=answers(without, targets), note="100 of 120 rows have it"),
        Contender(name="without table", probabilities_NC=answers(whole, targets)),
    ]
    fitted = Contender(name="fitted", probabilities_NC=answers(whole, targets))
    return ablation([fitted, *contenders], targets, KIND, ["accuracy", "log-loss"], options=QUICK), targets


def test_each_part_is_judged_on_the_same_rows_against_the_whole(made):
    text, table = made[0]
    assert text.metrics["accuracy"].value == pytest.approx(75 / 120)
    assert text.metrics["accuracy"].n == text.against_previous.difference.n == 120
    assert (text.against_previous.only_a_right, text.against_previous.only_b_right) == (40, 5)
    assert text.against_previous.p_value == pytest.approx(mcnemar(40, 5))
    assert text.against_previous.verdict == "worse"
    assert text.against_previous.difference.value == pytest.approx(-35 / 120)
    assert table.against_previous.verdict == "no evidence"
    assert table.against_previous.p_value == 1.0
    assert text.note == "100 of 120 rows have it"


def test_a_report_holds_it_and_reads_it_again(made):
    steps, targets = made
    judgement = KIND.judge(["accuracy"], targets, answers(targets >= 0, targets), options=QUICK)
    whole = Report(kind="fit", judgement=judgement, ablation=steps)
    written = json.loads(json.dumps(whole.to_json(), allow_nan=False))
    assert [step["name"] for step in written["ablation"]] == ["without text", "without table"]
    assert Report.from_json(written).ablation[0].against_previous == steps[0].against_previous
    assert "ablation" not in Report(kind="fit", judgement=judgement).to_json()
    shown = plain(draw(whole))
    assert "without text" in shown
    assert "-29.2" in shown


def test_the_part_that_is_missed_most_stands_first(made):
    steps, _ = made
    shown = plain(ablation_table(steps[::-1]))
    assert shown.index("without text") < shown.index("without table")
    assert "without text: 100 of 120 rows have it" in shown


def test_answers_of_another_shape_are_refused(made):
    _, targets = made
    whole = Contender(name="fitted", probabilities_NC=answers(targets >= 0, targets))
    with pytest.raises(DataError):
        ablation([whole, Contender(name="x", probabilities_NC=np.ones((3, 2)))], targets, KIND, ["accuracy"])
