"""Several seeds: variance components against their closed forms, the test against scipy's t and by simulation."""

import json

import numpy as np
import pytest
from scipy import stats

from regraft.evaluation.answer_kind import kind_of
from regraft.evaluation.compare import Comparison
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.seeds import Seeded, SeedStudy, climb_seeds, compare_seeds, mean_metric, study
from regraft.evaluation.shares import p_of_t
from regraft.types import Metric

QUICK = JudgeOptions(resamples=200)
MAE = ("mae", False)


def table(rng, seeds, rows, of_seeds, of_rows, of_both, mean=0.0):
    return (
        mean
        + of_seeds * rng.normal(size=(seeds, 1))
        + of_rows * rng.normal(size=(1, rows))
        + of_both * rng.normal(size=(seeds, rows))
    )


@pytest.mark.parametrize("freedom", [1.0, 2.5, 7.0, 40.0, 2000.0, 1e6])
def test_the_p_value_of_t_equals_scipys(freedom):
    for t in (0.0, 0.4, 1.96, 4.0):
        assert p_of_t(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=2e-3, abs=1e-5)
        assert p_of_t(-t, freedom) == p_of_t(t, freedom)


def test_variance_components_are_those_that_made_the_scores():
    found = [study("mae", table(np.random.default_rng(k), 6, 400, 0.1, 1.0, 0.5), range(6), 0.95) for k in range(150)]
    assert np.mean([one.of_seeds for one in found]) == pytest.approx(0.01, rel=0.15)
    assert np.mean([one.of_rows for one in found]) == pytest.approx(1.0 / 400, rel=0.05)
    assert np.mean([one.of_both for one in found]) == pytest.approx(0.25 / 400, rel=0.05)
    assert sum(found[0].shares.values()) == pytest.approx(1.0)


def test_mean_squares_equal_the_analysis_of_variance_by_hand():
    scores = np.array([[1.0, 2.0, 6.0], [2.0, 2.0, 8.0]])
    found = study("mae", scores, [3, 4], 0.95)
    # Row means 1.5, 2, 7; seed means 3, 4; mean 3.5. Squares: seeds 3 * 2 * 0.25 = 1.5; rows 2 * (4 + 2.25 + 12.25) = 37;
    # total 6.25 + 2.25 + 6.25 + 2.25 + 2.25 + 20.25 = 39.5; rest 1. Freedoms 1, 2, 2.
    assert found.of_seeds == pytest.approx((1.5 - 0.5) / 3)
    assert found.of_rows == pytest.approx((18.5 - 0.5) / 2 / 3)
    assert found.of_both == pytest.approx(0.5 / 3)
    assert (found.values, found.spread) == ((3.0, 4.0), pytest.approx(np.sqrt(0.5)))


@pytest.mark.parametrize(("of_seeds", "of_both"), [(0.15, 0.3), (0.0, 0.3), (0.05, 1.0)])
def test_the_interval_of_the_mean_covers_other_seeds_and_rows(of_seeds, of_both):
    held = 0
    for number in range(500):
        mean = study("mae", table(np.random.default_rng(number), 4, 100, of_seeds, 1.0, of_both), range(4), 0.95).mean
        held += mean.low <= 0 <= mean.high
    assert 0.92 <= held / 500 <= 0.995


def test_two_ways_to_fit_that_are_alike_are_seldom_called_different():
    called = alone = 0
    for number in range(400):
        rng = np.random.default_rng(number)
        rows = rng.normal(size=(1, 80))
        a, b = (rows + table(rng, 4, 80, 0.2, 0.0, 0.5) for _ in range(2))
        called += compare_seeds((a, b), MAE, ("a", "b"), options=QUICK).verdict != "no evidence"
        moved = b.mean(axis=0) - a.mean(axis=0)
        alone += stats.ttest_1samp(moved, 0).pvalue < 0.05
    assert called / 400 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)
    assert alone / 400 > 0.3, "a test on rows alone takes the networks that came out for the way to fit"


def test_a_real_difference_is_found_and_a_single_fit_borrows_the_others_seeds():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1, 200))
    a, b = rows + table(rng, 4, 200, 0.05, 0.0, 0.3), rows - 0.5 + table(rng, 4, 200, 0.05, 0.0, 0.3)
    found = compare_seeds((a, b), MAE, ("old", "new"), options=QUICK)
    assert (found.verdict, found.seeds, found.test) == ("better", (4, 4), "Student's t over seeds and rows, two-sided")
    assert "t over 4 and 4 seeds p " in found.sentence()
    single = compare_seeds((a[:1], b), MAE, ("old", "new"), options=QUICK)
    assert single.difference.high - single.difference.low > found.difference.high - found.difference.low
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert written["seeds"] == [4, 4]
    assert Comparison.from_json(written) == found


def test_without_seeds_effects_it_is_the_paired_t_test():
    rng = np.random.default_rng(1)
    a = np.tile(rng.normal(size=(1, 60)), (3, 1))  # every seed the same fit
    b = np.tile(a[0] + rng.normal(0.2, 1.0, 60), (3, 1))
    found = compare_seeds((a, b), MAE, ("a", "b"), options=QUICK)
    expected = stats.ttest_rel(b[0], a[0])
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-3)
    assert (found.difference.low, found.difference.high) == pytest.approx(tuple(expected.confidence_interval()), abs=2e-3)


def test_groups_of_rows_are_units():
    rng = np.random.default_rng(2)
    codes = np.repeat(np.arange(20), 5)
    scores = np.repeat(table(rng, 3, 20, 0.1, 1.0, 0.2), 5, axis=1)
    by_group, by_row = study("mae", scores, range(3), 0.95, codes), study("mae", scores, range(3), 0.95)
    assert by_group.mean.value == pytest.approx(by_row.mean.value)
    assert by_group.of_rows == pytest.approx(5 * by_row.of_rows, rel=0.1)


def test_a_metric_over_seeds_is_their_mean_with_both_spreads():
    found = mean_metric("accuracy", [Metric(0.8, 0.75, 0.85, 100), Metric(0.9, 0.85, 0.95, 100)], 0.95)
    of_seeds, of_rows = 0.005 / 2, (0.05 / stats.norm.ppf(0.975)) ** 2
    freedom = (of_seeds + of_rows) ** 2 / of_seeds**2
    reach = stats.t.ppf(0.975, freedom) * np.sqrt(of_seeds + of_rows)
    assert (found.value, found.high) == (pytest.approx(0.85), 1.0)
    assert found.low == pytest.approx(0.85 - reach, rel=0.01)
    assert mean_metric("accuracy", [found], 0.95) is found


def test_a_ladder_of_seeds_holds_means_and_says_what_seeds_do():
    rng = np.random.default_rng(3)
    targets = rng.integers(0, 2, 150)

    def fit(share):
        right = rng.random(150) < share
        return np.where((np.arange(2) == targets[:, None]) == right[:, None], 0.9, 0.1)

    old = Seeded(name="old", seeds=(0,), outputs=(fit(0.7),))
    new = Seeded(name="new (3 seeds)", seeds=(0, 1, 2), outputs=tuple(fit(0.92) for _ in range(3)))
    kind = kind_of("classes", ["a", "b"])
    ladder, judged, studies = climb_seeds([old, new], targets, kind, ["accuracy", "log-loss"], options=QUICK)
    values = [float((kind.decide(out) == targets).mean()) for out in new.outputs]
    assert ladder.steps[1].metrics["accuracy"].value == pytest.approx(np.mean(values))
    assert judged.metrics == ladder.steps[1].metrics
    assert (ladder.verdict.verdict, ladder.verdict.seeds, ladder.verdict.quantity) == ("better", (1, 3), "")
    assert studies["new (3 seeds)"].values == pytest.approx(tuple(values))
    assert SeedStudy.from_json(json.loads(json.dumps(studies["new (3 seeds)"].to_json()))) == studies["new (3 seeds)"]
    assert any("of the variance of one fit come from its seed" in note for note in judged.notes)
    middle = sorted(values)[1]
    assert judged.confusion.matrix().trace() == round(150 * middle)
