"""Rows that belong together: drawn, exchanged and counted as one."""

import numpy as np
import pytest

from regraft.evaluation import METRICS
from regraft.evaluation.answer_kind import fitting_names, kind_of
from regraft.evaluation.clusters import confidence_over, design_effect, group_codes, group_notes, group_sums, relevant, units
from regraft.evaluation.intervals import resample_groups, resample_weights
from regraft.evaluation.measure import count
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.shares import quantile_of_normal

KIND = kind_of("classes", ["a", "b"])
QUICK = JudgeOptions(resamples=400)


def speakers(groups, size, seed, within=0.9):
    """Return targets, outputs and groups where a speaker is mostly right or mostly wrong."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(groups), size)
    easy = rng.random(groups) < 0.7
    right = rng.random(groups * size) < np.where(easy[codes], within, 1 - within)
    targets = rng.integers(0, 2, groups * size)
    share = np.where(right, 0.8, 0.2)
    outputs = np.where((np.arange(2) == targets[:, None]), share[:, None], 1 - share[:, None])
    return targets, outputs, codes


def test_groups_are_numbered_and_a_row_without_one_is_by_itself():
    assert group_codes(["x", None, "x", 3, None]).tolist() == [0, 1, 0, 2, 3]
    assert relevant(np.array([4, 9, 4])).tolist() == [0, 1, 0]
    assert relevant(np.array([4, 9, 5])) is None
    assert relevant(None) is None
    assert group_sums(np.array([1.0, 2.0, 4.0]), np.array([0, 1, 0])).tolist() == [5.0, 2.0]
    assert (units(3, None), units(3, np.array([0, 1, 0]))) == (3, 2)


def test_groups_are_drawn_whole():
    codes = np.array([0, 0, 1, 2, 2, 2])
    weights = np.concatenate(list(resample_weights(6, 500, np.random.default_rng(0), codes)), axis=1)
    assert weights.shape == (6, 500)
    assert (weights[0] == weights[1]).all()
    assert (weights[3] == weights[5]).all()
    assert (weights[[0, 2, 3]].sum(axis=0) == 3).all()
    assert weights.mean() == pytest.approx(1.0, abs=0.05)


def test_counts_of_drawn_groups_are_those_of_their_rows():
    targets, predicted = np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0])
    codes = np.array([0, 0, 1, 1])
    weights = np.array([[2.0, 0.0], [0.0, 2.0]])[codes]
    found = resample_groups(targets, predicted, 2, iter([weights]))
    first, second = (count(targets[k], predicted[k], 2) for k in ([0, 1, 0, 1], [2, 3, 2, 3]))
    for table, one, other in zip(found, first, second, strict=True):
        np.testing.assert_array_equal(table, np.concatenate([one, other]))


def test_the_design_effect_is_that_of_equal_groups():
    # Groups of equal size m with intraclass correlation rho: 1 + (m - 1) rho (Kish 1965); here all rows of a group are alike.
    right = np.repeat(np.random.default_rng(0).random(400) < 0.6, 5)
    assert design_effect(right, np.repeat(np.arange(400), 5)) == pytest.approx(5.0, rel=0.01)
    alone = np.random.default_rng(1).random(2000) < 0.6
    assert design_effect(alone, np.repeat(np.arange(400), 5)) == pytest.approx(1.0, abs=0.15)
    assert design_effect(np.ones(20, bool), np.repeat(np.arange(4), 5)) == 5.0
    assert design_effect(alone, None) == 1.0


def test_few_groups_need_students_t():
    assert quantile_of_normal(0.5 + confidence_over(10, 0.95) / 2) == pytest.approx(2.262, abs=2e-3)
    assert confidence_over(100_000, 0.95) == pytest.approx(0.95, abs=1e-4)


def test_intervals_over_groups_cover_where_those_over_rows_do_not():
    truth = 0.7 * 0.9 + 0.3 * 0.1
    held, alone = dict.fromkeys(("accuracy", "brier"), 0), 0
    brier = truth * 0.04 + (1 - truth) * 0.64
    for number in range(250):
        targets, outputs, codes = speakers(40, 10, number)
        metrics = KIND.judge(["accuracy", "brier"], targets, outputs, options=QUICK, seed=number, groups_N=codes).metrics
        held["accuracy"] += metrics["accuracy"].low <= truth <= metrics["accuracy"].high
        held["brier"] += metrics["brier"].low <= brier <= metrics["brier"].high
        single = KIND.judge(["accuracy"], targets, outputs, options=QUICK, seed=number).metrics["accuracy"]
        alone += single.low <= truth <= single.high
    assert alone / 250 < 0.75
    for name, hits in held.items():
        assert 0.92 <= hits / 250 <= 0.985, name


def test_equal_models_are_not_called_different_because_rows_repeat():
    by_group = by_row = 0
    for number in range(120):
        rng = np.random.default_rng(number)
        targets = rng.integers(0, 2, 200)
        codes = np.repeat(np.arange(20), 10)
        given = []
        for _ in range(2):
            right = (rng.random(20) < 0.6)[codes]
            given.append(np.where((np.arange(2) == targets[:, None]) == right[:, None], 0.9, 0.1))
        both, names = (given[0], given[1]), ("a", "b")
        found = KIND.compare(targets, both, names, options=QUICK, seed=number, groups_N=codes)
        by_group += found.verdict != "no evidence"
        by_row += KIND.compare(targets, both, names, options=QUICK).verdict != "no evidence"
    assert by_row / 120 > 0.3
    assert by_group / 120 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 120)


def test_a_comparison_over_groups_says_so():
    targets, outputs, codes = speakers(30, 5, 0)
    other = outputs[:, ::-1].copy()
    found = KIND.compare(targets, (other, outputs), ("old", "new"), options=QUICK, groups_N=codes)
    assert (found.groups, found.quantity) == (30, "")
    assert found.test == "paired randomisation of whole groups, two-sided"
    assert "points [" in found.sentence()
    assert "paired randomisation of 30 groups p " in found.sentence()
    written = found.to_json()
    assert (written["groups"], "only_a_right" in written) == (30, True)
    assert type(found).from_json(written) == found


@pytest.mark.parametrize("answers", ["classes", "ranks"])
def test_every_metric_is_judged_over_groups(answers):
    targets, outputs, codes = speakers(25, 4, 1)
    kind = kind_of(answers, ["a", "b"])
    for name, metric in kind.judge(
        fitting_names(METRICS, answers), targets, outputs, options=QUICK, groups_N=codes
    ).metrics.items():
        assert metric.low <= metric.value <= metric.high, name


def test_groups_of_one_row_are_no_groups():
    targets, outputs, _ = speakers(10, 4, 2)
    names = ["accuracy", "macro-f1", "log-loss"]
    plain = KIND.judge(names, targets, outputs, options=QUICK)
    assert KIND.judge(names, targets, outputs, options=QUICK, groups_N=relevant(np.arange(40))) == plain


def test_the_note_counts_groups_and_warns_of_few():
    assert group_notes(None, "speaker") == []
    assert group_notes(np.repeat(np.arange(30), 2), "speaker") == [
        "rows of one 'speaker' are drawn together: 30 groups of 60 rows"
    ]
    assert group_notes(np.array([0, 0, 1]), "speaker")[0].endswith("with so few of them intervals and tests are rough")
