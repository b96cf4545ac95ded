"""Paired tests by any metric: p-values against scipy's, intervals that never contradict them, groups exchanged as one."""

import numpy as np
import pytest
from scipy import stats

from regraft.errors import OptionsError
from regraft.evaluation import METRICS, paired
from regraft.evaluation.answer_kind import fitting_names, kind_of
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.paired import Quantity, compare_by, compare_sums, mean_of_rows, reconciled
from regraft.evaluation.typical import mean_test

MAE = Quantity("mae", False, mean_of_rows)


def answers(rows, classes=3, seed=0, shift=1.0):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, rows)
    given = []
    for more in (0.0, 0.4):
        logits = rng.normal(size=(rows, classes))
        logits[np.arange(rows), targets] += shift + more
        raised = np.exp(logits)
        given.append(raised / raised.sum(axis=1, keepdims=True))
    return targets, (given[0], given[1])


def swapped_p(statistic, targets, outputs):
    """Return scipy's p-value for rows whose two answers stand either way round, all ways tried."""
    both = np.stack(outputs)
    rows = np.arange(len(targets))
    first, second = rows.astype(float), rows + 0.5  # the answers of a row: a whole number for A, half more for B

    def difference(one, other):
        values = [statistic(targets, both[(places % 1 > 0).astype(int), rows]) for places in (one, other)]
        return values[1] - values[0]

    return stats.permutation_test(
        (first, second), difference, permutation_type="samples", n_resamples=np.inf, vectorized=False
    ).pvalue


@pytest.mark.parametrize("seed", range(4))
def test_the_test_of_a_mean_equals_scipys_where_all_exchanges_are_tried(seed):
    moved = np.random.default_rng(seed).normal(0.4, 1.0, 9).round(1)  # rounded, so that sums tie
    expected = stats.permutation_test(
        (moved,), lambda x, axis: x.mean(axis=axis), permutation_type="samples", n_resamples=np.inf, vectorized=True
    ).pvalue
    found = mean_test(moved, None, 2000, 0.95, np.random.default_rng(0))
    assert found[1] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_interval_of_a_mean_is_where_scipys_test_begins_to_reject(seed):
    moved = np.random.default_rng(seed).normal(0.4, 1.0, 9)
    _, _, low, high, _ = mean_test(moved, None, 2000, 0.95, np.random.default_rng(0))

    def p_value(difference):
        return stats.permutation_test(
            (moved - difference,), lambda x, axis: x.mean(axis=axis), permutation_type="samples", n_resamples=np.inf
        ).pvalue

    assert p_value(low - 1e-6) < 0.05 <= p_value(low + 1e-6)
    assert p_value(high + 1e-6) < 0.05 <= p_value(high - 1e-6)


def test_the_test_of_a_mean_equals_scipys_where_exchanges_are_drawn():
    moved = np.random.default_rng(1).standard_exponential(60) - 0.75
    expected = stats.permutation_test(
        (moved,), lambda x, axis: x.mean(axis=axis), permutation_type="samples", n_resamples=20_000, vectorized=True
    ).pvalue
    found = mean_test(moved, None, 20_000, 0.95, np.random.default_rng(0))
    assert found[1] == pytest.approx(expected, abs=0.012)


@pytest.mark.parametrize("name", ["roc-auc", "macro-f1", "log-loss", "brier", "balanced-accuracy"])
def test_the_test_of_any_metric_equals_scipys_where_all_exchanges_are_tried(name):
    targets, outputs = answers(8, classes=2, seed=3)
    targets[:2] = 0, 1
    measure = METRICS.get(name)()
    expected = swapped_p(measure.value, targets, outputs)
    kind = kind_of("classes", ["a", "b"])
    found = compare_by(kind, targets, outputs, ("a", "b"), options=JudgeOptions(metric=name, resamples=2000))
    assert found.p_value == pytest.approx(expected, abs=1e-9)
    assert found.quantity == name
    assert found.difference.value == pytest.approx(measure.value(targets, outputs[1]) - measure.value(targets, outputs[0]))


def test_every_metric_of_classes_and_numbers_can_compare():
    targets, outputs = answers(120)
    kind = kind_of("classes", ["a", "b", "c"])
    for name in fitting_names(METRICS, "classes"):
        found = compare_by(kind, targets, outputs, ("a", "b"), options=JudgeOptions(metric=name, resamples=300))
        assert 0 < found.p_value <= 1, name
        better = METRICS.get(name).higher_is_better == (found.difference.value > 0)
        assert found.verdict in ("no evidence", "better" if better else "worse"), name
    rng = np.random.default_rng(2)
    truth = rng.normal(size=80)
    numbers = (truth + rng.normal(size=80))[:, None], (truth + 0.3 * rng.normal(size=80))[:, None]
    for name in fitting_names(METRICS, "numbers"):
        options = JudgeOptions(metric=name, resamples=300)
        assert compare_by(kind_of("numbers"), truth, numbers, ("a", "b"), options=options).verdict == "better", name


def test_the_usual_metric_is_compared_by_the_usual_test():
    targets, outputs = answers(60)
    kind = kind_of("classes", ["a", "b", "c"])
    usual = compare_by(kind, targets, outputs, ("a", "b"), options=JudgeOptions())
    assert compare_by(kind, targets, outputs, ("a", "b"), options=JudgeOptions(metric="accuracy")) == usual
    assert usual.test.startswith("McNemar")


def test_a_metric_without_a_better_end_or_of_other_answers_is_refused():
    kind = kind_of("quantiles", ["0.1", "0.5", "0.9"])
    targets, outputs = np.zeros(5), (np.zeros((5, 3)), np.ones((5, 3)))
    with pytest.raises(OptionsError, match="the metric 'coverage' has no better end") as caught:
        compare_by(kind, targets, outputs, ("a", "b"), options=JudgeOptions(metric="coverage"))
    assert "leave it out (pinball is used)" in str(caught.value)
    with pytest.raises(OptionsError, match="is for"):
        compare_by(kind, targets, outputs, ("a", "b"), options=JudgeOptions(metric="accuracy"))


def test_an_interval_holds_no_difference_exactly_if_the_test_finds_none():
    rng, odd = np.random.default_rng(5), 0
    for number in range(150):
        rows = int(rng.integers(4, 40))
        a, b = rng.standard_exponential((2, rows, 1))
        found = compare_sums((a, 0.62 * b), MAE, ("a", "b"), options=JudgeOptions(resamples=400), seed=number)
        inside = found.difference.low <= 0 <= found.difference.high
        assert inside == (found.verdict == "no evidence")
        assert found.difference.low <= found.difference.value <= found.difference.high
        odd += not inside
    assert 10 < odd < 140


def test_the_interval_of_a_mean_covers_and_of_a_skewed_one_too():
    for draw, truth in ((lambda rng: rng.normal(0.3, 1, 40), 0.3), (lambda rng: rng.standard_exponential(80) - 0.8, 0.2)):
        held = 0
        for number in range(400):
            rng = np.random.default_rng(number)
            _, _, low, high, _ = mean_test(draw(rng), None, 600, 0.95, rng)
            held += low <= truth <= high
        assert 0.92 <= held / 400 <= 0.98


def test_the_interval_is_that_of_students_t_on_normal_differences():
    moved = np.random.default_rng(7).normal(0.2, 1.0, 200)
    _, _, low, high, error = mean_test(moved, None, 20_000, 0.95, np.random.default_rng(0))
    expected = stats.ttest_1samp(moved, 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.01)
    assert error == pytest.approx(moved.std(ddof=1) / np.sqrt(200))


def test_very_many_rows_take_the_normal_limit(monkeypatch):
    moved = np.random.default_rng(8).normal(0.1, 1.0, 3000)
    drawn = mean_test(moved, None, 5000, 0.95, np.random.default_rng(0))
    monkeypatch.setattr("regraft.evaluation.typical.MOST_VISITS", 0)
    limit = mean_test(moved, None, 5000, 0.95, np.random.default_rng(0))
    assert limit == pytest.approx(drawn, rel=0.06, abs=3e-4)
    assert limit != drawn
    targets, outputs = answers(1500, classes=2)
    options = JudgeOptions(metric="roc-auc", resamples=1000)
    kind = kind_of("classes", ["a", "b"])
    one = compare_by(kind, targets, outputs, ("a", "b"), options=options)
    monkeypatch.setattr(paired, "MOST_VISITS", 0)
    two = compare_by(kind, targets, outputs, ("a", "b"), options=options)
    assert two.difference.value == one.difference.value
    assert (two.difference.low, two.difference.high) == pytest.approx((one.difference.low, one.difference.high), abs=0.004)


@pytest.mark.parametrize(("found", "ends"), [(True, (0.0, 0.5)), (False, (-0.1, 0.5))])
def test_an_end_that_contradicts_the_test_is_moved_to_zero(found, ends):
    assert reconciled(-0.1, 0.5, 0.3, found=found) == ends
    assert reconciled(-0.5, 0.1, -0.3, found=found) == (-ends[1], -ends[0] + 0.0)
    assert reconciled(0.1, 0.5, 0.3, found=False) == (0.0, 0.5)


def test_equal_models_are_called_different_in_at_most_5_percent_by_any_metric():
    kind, called = kind_of("classes", ["a", "b"]), dict.fromkeys(("roc-auc", "macro-f1", "log-loss"), 0)
    for number in range(120):
        rng = np.random.default_rng(number)
        targets = rng.integers(0, 2, 50)
        given = []
        for _ in range(2):
            share = 1 / (1 + np.exp(-rng.normal(size=50) - targets))
            given.append(np.stack([1 - share, share], axis=1))
        for name in called:
            options = JudgeOptions(metric=name, resamples=200)
            called[name] += (
                compare_by(kind, targets, (given[0], given[1]), ("a", "b"), options=options).verdict != "no evidence"
            )
    for name, times in called.items():
        assert times / 120 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 120), name


def test_a_median_of_places_is_exchanged_among_each_models_own_places():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 8))
    far = np.concatenate([vectors, vectors + 3 * rng.normal(size=(60, 8))], axis=1)
    near = np.concatenate([vectors, vectors + 0.2 * rng.normal(size=(60, 8))], axis=1)
    kind = kind_of("pairs", ["picture", "name"])
    options = JudgeOptions(metric="median-rank-there", resamples=300)
    found = compare_by(kind, np.arange(60), (far, near), ("far", "near"), options=options)
    assert (found.verdict, found.difference.value < -3) == ("better", True)


def test_one_row_and_equal_answers_give_no_evidence():
    options = JudgeOptions(resamples=200)
    one = compare_sums((np.ones((1, 1)), np.zeros((1, 1))), MAE, ("a", "b"), options=options)
    assert (one.verdict, one.p_value) == ("no evidence", 1.0)
    same = compare_sums((np.ones((30, 1)), np.ones((30, 1))), MAE, ("a", "b"), options=options)
    assert (same.verdict, same.p_value, same.rows_needed) == ("no evidence", 1.0, None)
    assert same.sentence().endswith("Both are as near on every row.")


def test_the_rows_that_are_needed_follow_from_the_spread():
    rng = np.random.default_rng(9)
    a = np.abs(rng.normal(size=(100, 1)))
    b = a + rng.normal(0.1, 1.0, size=(100, 1))
    found = compare_sums((a, b), MAE, ("a", "b"), options=JudgeOptions(resamples=400))
    spread = float((b - a).std(ddof=1))
    expected = ((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * spread / found.difference.value) ** 2
    assert found.rows_needed == pytest.approx(expected, rel=0.01)
    assert "; the difference seen would need about " in found.sentence()
