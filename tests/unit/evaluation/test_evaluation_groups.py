"""Two groups of rows: exact tests, intervals and corrections against independent references."""

import numpy as np
import pytest
import scipy.stats

from regraft.evaluation.groups import difference_of, fisher, interval_of, newcombe, p_values, p_worse
from regraft.evaluation.holm import holm
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.paired import Quantity, mean_of_rows

OPTIONS = JudgeOptions(resamples=1000)
SHARE, ERROR = Quantity("accuracy", True, mean_of_rows), Quantity("mae", False, mean_of_rows)


def naive_holm(p_values):
    """Holm 1979 step by step: reject while p * (tests left) stays below; the adjusted value is the level where that begins."""
    left, adjusted, worst = len(p_values), {}, 0.0
    for place in sorted(range(len(p_values)), key=lambda i: p_values[i]):
        worst = max(worst, min(1.0, p_values[place] * left))
        adjusted[place] = worst
        left -= 1
    return [adjusted[place] for place in range(len(p_values))]


def test_holm_equals_the_steps_of_the_paper():
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 40):
        given = rng.random(size) ** 3
        np.testing.assert_allclose(holm(given), naive_holm(given.tolist()))
    assert holm([]).tolist() == []


def test_a_test_that_was_not_made_counts_for_nothing():
    adjusted = holm([0.02, np.nan, 0.03])
    assert np.isnan(adjusted[1])
    np.testing.assert_allclose(adjusted[[0, 2]], [0.04, 0.04])


@pytest.mark.parametrize("seed", range(25))
def test_fishers_exact_test_is_that_of_scipy(seed):
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(4, 150))
    right, inside = rng.random(rows) < rng.random(), np.arange(rows) < rng.integers(1, rows)
    table = [[(right & inside).sum(), (~right & inside).sum()], [(right & ~inside).sum(), (~right & ~inside).sum()]]
    assert fisher(right, inside) == pytest.approx(scipy.stats.fisher_exact(table).pvalue, rel=1e-9)


def test_there_is_no_test_without_a_rest():
    assert np.isnan(fisher(np.ones(3, dtype=bool), np.ones(3, dtype=bool)))
    found = p_values(np.arange(4.0)[:, None], np.ones((4, 1), dtype=bool), ERROR, 100, np.random.default_rng(0))
    assert np.isnan(found[0])


@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090), ((10, 10), (0, 20), 0.6791, 1.0)],
)
def test_the_interval_of_two_shares_is_the_published_one(one, other, low, high):
    """Newcombe 1998, table II, method 10, the contrasts (a), (c) and (g)."""
    value, *ends = newcombe(one, other)
    assert value == pytest.approx(one[0] / one[1] - other[0] / other[1])
    np.testing.assert_allclose(ends, [low, high], atol=6e-5)


def test_shares_have_wilsons_interval_and_newcombes_difference():
    right = (np.arange(40) % 4 > 0).astype(float)[:, None]
    metric = interval_of(right, SHARE, OPTIONS, np.random.default_rng(0))
    expected = scipy.stats.binomtest(30, 40).proportion_ci(method="wilson")
    np.testing.assert_allclose([metric.value, metric.low, metric.high], [0.75, expected.low, expected.high])
    found = difference_of(right[:20], right[20:], SHARE, OPTIONS, np.random.default_rng(0))
    np.testing.assert_allclose(found, newcombe((15, 20), (15, 20)))


def test_other_quantities_are_resampled_as_scipy_does():
    rng = np.random.default_rng(3)
    inside, rest = rng.exponential(size=(60, 1)) + 0.3, rng.exponential(size=(200, 1))
    metric = interval_of(inside, ERROR, OPTIONS, np.random.default_rng(0))
    expected = scipy.stats.bootstrap((inside[:, 0],), np.mean, n_resamples=4000, method="percentile", rng=1)
    np.testing.assert_allclose([metric.low, metric.high], expected.confidence_interval, atol=0.05)
    found = difference_of(inside, rest, ERROR, OPTIONS, np.random.default_rng(0))
    both = (inside[:, 0], rest[:, 0])
    expected = scipy.stats.bootstrap(
        both, lambda a, b, axis: a.mean(axis) - b.mean(axis), n_resamples=4000, method="percentile", rng=1
    )
    assert found[0] == pytest.approx(inside.mean() - rest.mean())
    np.testing.assert_allclose(found[1:], expected.confidence_interval, atol=0.05)


def test_one_row_has_no_interval():
    metric = interval_of(np.array([[0.3]]), ERROR, OPTIONS, np.random.default_rng(0))
    assert metric.value == 0.3
    assert np.isnan(metric.low)


def test_randomisation_gives_the_p_values_of_scipy():
    rng = np.random.default_rng(1)
    costs = rng.exponential(size=(80, 1))
    inside = np.stack([rng.random(80) < 0.2, rng.random(80) < 0.5], axis=1)
    costs[inside[:, 0]] += 0.5
    found = p_values(costs, inside, ERROR, 5000, np.random.default_rng(0))
    for place in range(2):
        both = (costs[inside[:, place], 0], costs[~inside[:, place], 0])
        expected = scipy.stats.permutation_test(both, lambda a, b: a.mean() - b.mean(), n_resamples=5000, rng=2).pvalue
        assert found[place] == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("limit", ["MOST_VISITS", "_MOST_PERMUTED"])
def test_the_short_cuts_for_many_rows_agree(limit, monkeypatch):
    rng = np.random.default_rng(5)
    costs = rng.exponential(size=(3000, 1))
    size = 600 if limit == "MOST_VISITS" else 40
    inside = (np.arange(3000) < size)[:, None]
    costs[:size] += costs[size:].mean() - costs[:size].mean() + 2.0 / np.sqrt(size)
    drawn = p_values(costs, inside, ERROR, 3000, np.random.default_rng(0))
    monkeypatch.setattr(f"regraft.evaluation.groups.{limit}", 0)
    short = p_values(costs, inside, ERROR, 3000, np.random.default_rng(1))
    assert short[0] == pytest.approx(drawn[0], abs=0.03)
    assert 0 < drawn[0] < 0.2


@pytest.mark.parametrize(("rows", "size"), [(400, 20), (400, 100), (1000, 400)])
def test_worse_than_a_margin_keeps_its_level(rows, size):
    """At the margin itself at most one in twenty is called worse, well beyond it nearly all; 300 draws each."""
    rng = np.random.default_rng(rows + size)
    inside = np.arange(rows) < size

    def share(shift, margin):
        called = 0
        for _ in range(300):
            costs = rng.normal(size=rows)
            costs[inside] += shift
            called += p_worse(costs, inside, margin, 200, rng) < 0.05
        return called / 300

    assert share(0.2, 0.2) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
    assert share(0.0, 0.2) < 0.05
    assert share(1.2, 0.2) > 0.9
