"""McNemar's test against scipy, the paired interval, and what a verdict is worth."""

import json

import numpy as np
import pytest
from scipy import stats

from regraft.errors import DataError
from regraft.evaluation import shares
from regraft.evaluation.compare import (
    Comparison,
    compare_predictions,
    compare_right,
    corrected,
    least_discordant,
    mcnemar,
    rows_needed,
    smallest_detectable,
)
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.shares import paired_interval


def right(only_a, only_b, both=0, neither=0):
    a = [True] * only_a + [False] * only_b + [True] * both + [False] * neither
    b = [False] * only_a + [True] * only_b + [True] * both + [False] * neither
    return np.array(a, dtype=bool), np.array(b, dtype=bool)


def test_mcnemar_equals_scipys_exact_binomial_test():
    for only_a in range(25):
        for only_b in range(25):
            expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
            assert mcnemar(only_a, only_b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 2000), (900, 1100), (49_000, 51_000), (10, 3000)])
def test_mcnemar_stays_exact_for_many_rows(only_a, only_b):
    expected = stats.binomtest(only_a, only_a + only_b).pvalue
    assert mcnemar(only_a, only_b) == pytest.approx(expected, rel=1e-7, abs=1e-300)
    assert mcnemar(only_a, only_b) == mcnemar(only_b, only_a)


def test_equal_models_are_called_different_in_at_most_5_percent():
    rng = np.random.default_rng(0)
    for n in (50, 400):
        called = 0
        for _ in range(1000):
            kinds = rng.choice(4, size=n, p=[0.08, 0.08, 0.7, 0.14])
            called += mcnemar(int((kinds == 0).sum()), int((kinds == 1).sum())) < 0.05
        assert called / 1000 <= 0.05 + 0.01


@pytest.mark.parametrize(
    ("only_a", "only_b", "verdict"), [(2, 20, "better"), (20, 2, "worse"), (5, 5, "no evidence"), (0, 5, "no evidence")]
)
def test_the_verdict_is_about_b(only_a, only_b, verdict):
    found = compare_right(*right(only_a, only_b, both=80), ("before", "after"))
    assert found.verdict == verdict
    assert (found.only_a_right, found.only_b_right) == (only_a, only_b)
    assert found.difference.value == pytest.approx((only_b - only_a) / (80 + only_a + only_b))
    assert found.difference.n == 80 + only_a + only_b


def test_the_verdict_follows_the_confidence():
    rows = right(2, 12, both=80)  # p = 0.013
    assert compare_right(*rows, ("a", "b")).verdict == "better"
    assert compare_right(*rows, ("a", "b"), options=JudgeOptions(confidence=0.99)).verdict == "no evidence"


def test_probabilities_are_decided_like_predictions():
    targets = np.array([0, 1, 1, 0])
    a = np.array([[0.5, 0.5], [0.4, 0.6], [0.9, 0.1], [0.2, 0.8]])  # right, right, wrong, wrong
    b = np.array([[0.1, 0.9], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]])  # wrong, right, right, right
    found = compare_predictions(targets, a, b, ("old", "new"))
    assert (found.only_a_right, found.only_b_right) == (1, 2)
    assert (found.a, found.b) == ("old", "new")


def test_the_paired_interval_is_near_that_of_resampled_rows():
    a, b = right(15, 30, both=120, neither=35)
    expected = stats.bootstrap(
        (b.astype(float) - a.astype(float),), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(3)
    ).confidence_interval
    found = compare_right(a, b, ("a", "b")).difference
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.012)
    assert found.low <= expected.low + 0.001


def test_the_score_interval_equals_the_published_one():
    # 1 and 7 discordant pairs of 21 (Fagerland, Lydersen & Laake 2014, table 3: Tango's interval -0.517 to -0.026).
    assert shares._tango(7, 1, 21, 0.95) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("rows", [30, 400])
def test_the_interval_holds_no_difference_exactly_if_the_test_finds_none(confidence, rows):
    for only_a in range(26):
        for only_b in range(min(26, rows - only_a)):
            low, high = paired_interval(only_a, only_b, rows, confidence)
            assert (low <= 0 <= high) == (mcnemar(only_a, only_b) >= 1 - confidence), (only_a, only_b)
            assert low <= (only_b - only_a) / rows <= high


@pytest.mark.parametrize(("rows", "a", "b"), [(60, 0.06, 0.12), (150, 0.06, 0.12), (400, 0.0, 0.1), (400, 0.02, 0.02)])
def test_the_paired_interval_covers(rows, a, b):
    drawn = np.random.default_rng(4).multinomial(rows, [a, b, 1 - a - b], size=800)
    held = 0
    for (only_a, only_b, _), times in zip(*np.unique(drawn, axis=0, return_counts=True), strict=True):
        low, high = paired_interval(int(only_a), int(only_b), rows)
        held += times * (low <= b - a <= high)
    assert held / 800 >= 0.93


def test_models_that_never_differ_are_not_proven_equal():
    found = compare_right(*right(0, 0, both=20), ("a", "b")).difference
    assert found.value == 0
    assert found.low == pytest.approx(-0.161, abs=1e-3)
    assert found.high == pytest.approx(0.161, abs=1e-3)


def test_models_that_always_differ_have_an_open_end_too():
    for found, sign in ((compare_right(*right(0, 5), ("a", "b")), 1), (compare_right(*right(5, 0), ("a", "b")), -1)):
        assert found.difference.value == sign
        width = found.difference.high - found.difference.low
        assert width == pytest.approx(1.044, abs=1e-3)  # of 5 rows one way the exact test finds nothing: 0 is inside
        assert -1 <= found.difference.low <= found.difference.value <= found.difference.high <= 1


def test_one_row_gives_no_evidence():
    found = compare_right(*right(0, 1), ("a", "b"))
    assert (found.p_value, found.verdict) == (1.0, "no evidence")
    assert found.smallest_detectable == 1.0


@pytest.mark.parametrize(("rows", "discordant"), [(100, 20), (400, 40), (5000, 300)])
def test_the_smallest_detectable_difference_solves_its_equation(rows, discordant):
    share = discordant / rows
    found = smallest_detectable(rows, discordant)
    z_a, z_b = stats.norm.ppf(0.975), stats.norm.ppf(0.8)
    wanted = z_a * np.sqrt(share) + z_b * np.sqrt(share - found**2) + 1 / np.sqrt(rows)
    assert np.sqrt(rows) * found == pytest.approx(wanted, rel=1e-9)


def test_the_smallest_detectable_difference_is_found_about_as_often_as_it_says():
    rows, share = 2000, 0.1
    size = smallest_detectable(rows, int(rows * share))
    rng, found = np.random.default_rng(5), 0
    for _ in range(1000):
        kinds = np.bincount(rng.choice(3, size=rows, p=[(share - size) / 2, (share + size) / 2, 1 - share]), minlength=3)
        found += mcnemar(int(kinds[0]), int(kinds[1])) < 0.05
    assert 0.74 <= found / 1000 <= 0.84


def test_without_a_discordant_row_the_smallest_detectable_difference_is_still_positive():
    assert 0 < smallest_detectable(400, 0) < 0.05


def test_json_round_trip_and_names():
    found = compare_right(*right(2, 20, both=80), ("before", "after"))
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert set(written["difference"]) == {"value", "low", "high", "n"}
    assert written["verdict"] == "better"
    assert written["test"] == "McNemar, exact binomial, two-sided"
    assert Comparison.from_json(written) == found


def test_the_sentence_names_both_and_the_numbers():
    found = compare_right(*right(10, 31, both=359), ("linear-probe", "fitted"))
    assert found.sentence() == (
        f"fitted is better than linear-probe: +5.2 points "
        f"[{100 * found.difference.low:.1f}, {100 * found.difference.high:.1f}], McNemar p = 0.0015, n = 400."
    )
    equal = compare_right(*right(10, 12, both=378), ("linear-probe", "fitted")).sentence()
    assert equal.startswith("No evidence that fitted and linear-probe differ: +0.5 points [")
    told = "Only from about 3.5 points would it show; the difference seen would need about 18,000 rows."
    assert equal.endswith(told)
    assert compare_right(*right(10, 10, both=380), ("a", "b")).sentence().endswith("points would it show.")
    assert "McNemar p < 0.0001" in compare_right(*right(0, 60), ("a", "b")).sentence()


@pytest.mark.parametrize(("rows", "only_a", "only_b"), [(400, 10, 12), (2000, 90, 130), (100, 2, 20)])
def test_the_rows_that_are_needed_make_the_difference_seen_the_smallest_that_shows(rows, only_a, only_b):
    needed = rows_needed(rows, only_a, only_b)
    share, difference = (only_a + only_b) / rows, (only_b - only_a) / rows
    assert smallest_detectable(needed, round(share * needed)) == pytest.approx(difference, rel=0.02)


def test_the_rows_that_are_needed_show_the_difference_as_often_as_is_said():
    needed = rows_needed(400, 10, 24)
    drawn = np.random.default_rng(6).multinomial(needed, [10 / 400, 24 / 400, 366 / 400], size=1500)
    found = np.mean([mcnemar(int(a), int(b)) < 0.05 for a, b, _ in drawn])
    assert 0.74 <= found <= 0.86


def test_no_difference_needs_no_rows_and_six_rows_are_the_fewest():
    assert rows_needed(400, 7, 7) is None
    assert rows_needed(10, 0, 10) == 6
    assert [least_discordant(alpha) for alpha in (0.05, 0.01, 0.2)] == [6, 8, 4]
    for alpha in (0.05, 0.01, 0.2):
        least = least_discordant(alpha)
        assert mcnemar(0, least) < alpha <= mcnemar(0, least - 1)


def test_several_comparisons_are_corrected_and_one_is_not():
    pairs = [(0, 6), (2, 20), (3, 14)]
    family = [compare_right(*right(a, b, both=80), ("a", "b")) for a, b in pairs]
    after = corrected(family, 0.95)
    # Holm by hand: the smallest of three p-values times 3, the next times 2, the last as it is, never falling.
    p = sorted(comparison.p_value for comparison in family)
    expected = [3 * p[0], max(3 * p[0], 2 * p[1]), max(2 * p[1], p[2])]
    assert sorted(comparison.p_holm for comparison in after) == pytest.approx(expected)
    assert [comparison.verdict for comparison in family] == ["better"] * 3
    assert [comparison.verdict for comparison in after] == ["better", "better", "better"] if max(expected) < 0.05 else True
    assert [c.p_value for c in after] == [c.p_value for c in family]
    weak = [compare_right(*right(0, 6, both=80), ("a", "b")), compare_right(*right(4, 5, both=80), ("a", "b"))]
    assert [c.verdict for c in weak] == ["better", "no evidence"]
    assert [c.verdict for c in corrected(weak, 0.95)] == ["no evidence", "no evidence"]
    assert "McNemar p = 0.031 (Holm = 0.062, one of 2)" in corrected(weak, 0.95)[0].sentence()
    assert corrected(weak[:1], 0.95) == weak[:1]
    written = json.loads(json.dumps(corrected(weak, 0.95)[0].to_json(), allow_nan=False))
    assert (written["p_holm"], written["family"]) == (0.0625, 2)
    assert Comparison.from_json(written) == corrected(weak, 0.95)[0]


def test_arrays_that_do_not_fit_are_refused_by_name():
    with pytest.raises(DataError, match="new cannot be judged on these arrays") as caught:
        compare_predictions(np.array([0, 1]), np.eye(2), np.eye(2)[:1], ("old", "new"))
    assert "2 targets, 1 rows of probabilities" in str(caught.value)
