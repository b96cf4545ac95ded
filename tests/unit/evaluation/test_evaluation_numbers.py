"""Metrics, baselines and comparison of numbers and quantiles, against scikit-learn, scipy and rows that are really repeated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import linear_model
from sklearn import metrics as reference

from regraft.errors import DataError, OptionsError
from regraft.evaluation import METRICS, RUNGS, intervals
from regraft.evaluation.answer_kind import fitting_names, kind_of
from regraft.evaluation.compare import Comparison
from regraft.evaluation.judge import judge
from regraft.evaluation.ladder import Contender, LadderRows, build_ladder
from regraft.evaluation.measure import shown
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.paired import Quantity, compare_sums, mean_of_rows
from regraft.evaluation.render import draw, plain
from regraft.evaluation.report import Report
from regraft.evaluation.rung import Rows, no_rows

LEVELS = ("0.1", "0.5", "0.9")
QUICK = JudgeOptions(resamples=300)
KINDS = {"numbers": (), "quantiles": LEVELS}


def made(kind, rows=80, seed=0):
    rng = np.random.default_rng(seed)
    targets = rng.gamma(2.0, 30.0, size=rows) - 20
    outputs = targets[:, None] + rng.normal(scale=15, size=(rows, 1))
    return targets, outputs if kind == "numbers" else outputs + np.array([-18.0, 0.0, 21.0])


def both():
    return [(kind, name) for kind in KINDS for name in fitting_names(METRICS, kind)]


def by_hand(name, targets, outputs):
    middle = outputs[:, 0] if outputs.shape[1] == 1 else outputs[:, 1]
    levels = [float(level) for level in LEVELS]
    return {
        "mae": lambda: reference.mean_absolute_error(targets, middle),
        "rmse": lambda: reference.root_mean_squared_error(targets, middle),
        "r2": lambda: reference.r2_score(targets, middle),
        "pinball": lambda: np.mean(
            [reference.mean_pinball_loss(targets, outputs[:, i], alpha=q) for i, q in enumerate(levels)]
        ),
        "coverage": lambda: np.mean([low <= y <= high for y, (low, _, high) in zip(targets, outputs, strict=True)]),
        "calibration-error": lambda: np.mean([abs(np.mean(targets <= outputs[:, i]) - q) for i, q in enumerate(levels)]),
    }[name]()


@pytest.mark.parametrize(("kind", "name"), both())
def test_metrics_equal_those_of_scikit_learn_under_every_weighting(kind, name):
    targets, outputs = made(kind)
    measure = kind_of(kind, KINDS[kind]).measures([name])[name]
    assert measure.value(targets, outputs) == pytest.approx(by_hand(name, targets, outputs), rel=1e-12)
    weights = np.random.default_rng(1).integers(0, 4, size=(80, 3))
    for found, column in zip(measure.values(targets, outputs, weights), weights.T, strict=True):
        repeated = np.repeat(np.arange(80), column)
        assert found == pytest.approx(by_hand(name, targets[repeated], outputs[repeated]), rel=1e-9)


@pytest.mark.parametrize(("kind", "name"), both())
def test_the_normal_limit_of_an_interval_is_near_the_resampled_one(kind, name, monkeypatch):
    targets, outputs = made(kind, rows=600)
    options = JudgeOptions(resamples=2000)
    resampled = judge([name], targets, outputs, KINDS[kind], answers=kind, options=options).metrics[name]
    assert resampled.low < resampled.value < resampled.high
    measure = kind_of(kind, KINDS[kind]).measures([name])[name]
    if measure.influence(targets, outputs) is None:
        return
    monkeypatch.setattr(intervals, "MOST_VISITS", 1)
    limit = judge([name], targets, outputs, KINDS[kind], answers=kind, options=options).metrics[name]
    assert limit.high - limit.low == pytest.approx(resampled.high - resampled.low, rel=0.12)
    assert limit.value == resampled.value


def test_r2_is_undefined_where_all_targets_are_equal_and_exact_for_large_means():
    measure = kind_of("numbers").measures(["r2"])["r2"]
    assert math.isnan(measure.value(np.full(9, 0.1), np.zeros((9, 1))))
    targets, outputs = made("numbers")
    assert measure.value(targets + 1e8, outputs + 1e8) == pytest.approx(measure.value(targets, outputs), rel=1e-5)


def test_the_report_of_numbers_goes_through_json_and_onto_the_screen():
    targets, outputs = made("quantiles")
    rng = np.random.default_rng(0)
    features = np.stack([targets + rng.normal(scale=20, size=80), rng.normal(size=80)], axis=1).astype(np.float32)
    rows = Rows(features, targets)
    fitted = Contender(name="fitted", probabilities_NC=outputs)
    table = LadderRows(train=rows, valid=no_rows(2), test=rows, labels=LEVELS, answers="quantiles")
    metrics = fitting_names(METRICS, "quantiles")
    ladder = build_ladder(table, fitted, metrics, options=QUICK)
    assert [step.name for step in ladder.steps] == ["quantiles-of-all", "ridge-quantiles", "fitted"]
    judgement = judge(metrics, targets, outputs, LEVELS, answers="quantiles", options=QUICK)
    report = Report(kind="fit", judgement=judgement, ladder=ladder)
    written = report.to_json()
    assert (written["per_class"], written["confusion"]) == ([], None)
    assert written["verdict_detail"]["quantity"] == "pinball"
    assert written["verdict_detail"]["test"] == "paired randomisation, two-sided"
    again = Report.from_json(written)
    assert again.ladder == ladder
    assert again.to_json() == written
    text = plain(draw(report))
    assert "coverage should be near 0.8: quantiles 0.1 to 0.9" in text
    assert "change of pinball and p of a paired randomisation test" in text
    assert "precision" not in text
    assert next(line for line in text.splitlines() if line.startswith("coverage ")).rstrip().endswith("80")


@pytest.mark.parametrize(("value", "text"), [(0.00012345, "0.0001234"), (12.3456, "12.35"), (1234567.8, "1,234,568")])
def test_numbers_in_the_unit_of_the_target_keep_their_digits(value, text):
    assert shown(value, in_units=True) == text
    assert shown(value, in_units=False) == f"{value:.3f}"


def test_only_what_is_for_such_answers_is_taken():
    with pytest.raises(OptionsError) as caught:
        judge(["accuracy", "mea"], *made("numbers"), (), answers="numbers")
    text = str(caught.value)
    assert "'accuracy' (metrics) is for classes or ranks, not for numbers" in text
    assert "expected: mae, rmse, r2" in text
    assert "did you mean 'mae'" in text
    assert fitting_names(RUNGS, "numbers") == ["mean", "median", "ridge-probe"]
    with pytest.raises(OptionsError, match=r"'majority' \(rungs\) is for classes or ranks, not for numbers"):
        kind_of("numbers").rungs(["majority"])


@pytest.mark.parametrize(
    ("targets", "outputs", "text"),
    [
        (np.zeros(3), np.zeros((3, 2)), "targets of shape (3,), answers of shape (3, 2)"),
        (np.zeros(3), np.zeros((2, 1)), "3 targets, 2 answers"),
        (np.zeros(0), np.zeros((0, 1)), "there are no rows to judge"),
        (np.array([0, np.nan]), np.zeros((2, 1)), "a target is not a finite number"),
        (np.zeros(2), np.array([[0], [np.inf]]), "the answers of the model are not finite numbers"),
    ],
)
def test_what_cannot_be_judged_is_named(targets, outputs, text):
    with pytest.raises(DataError) as caught:
        judge(["mae"], targets, outputs, (), answers="numbers")
    assert text in str(caught.value)


def paired(rows, shift, seed=0, resamples=8000):
    rng = np.random.default_rng(seed)
    a = np.abs(rng.normal(size=rows))
    b = a - rng.normal(shift, 0.6, size=rows)
    quantity = Quantity("mae", False, mean_of_rows)
    found = compare_sums((a[:, None], b[:, None]), quantity, ("old", "new"), options=JudgeOptions(resamples=resamples))
    return a, b, found


@pytest.mark.parametrize(("rows", "shift"), [(9, 0.3), (60, 0.15), (200, 0.05)])
def test_the_paired_test_is_that_of_scipy(rows, shift):
    a, b, found = paired(rows, shift)
    expected = stats.permutation_test(
        (a, b), lambda x, y, axis: (y - x).mean(axis=axis), permutation_type="samples", n_resamples=20_000, rng=1
    )
    tolerance = 1e-12 if rows == 9 else 4 * math.sqrt(0.25 / 8000)
    assert found.p_value == pytest.approx(expected.pvalue, abs=tolerance)
    assert found.difference.value == pytest.approx((b - a).mean(), rel=1e-12)
    assert found.only_b_right == int((b < a).sum())


def test_the_paired_test_of_very_many_rows_is_the_limit_of_the_same_test(monkeypatch):
    a, b, drawn = paired(400, 0.06)
    monkeypatch.setattr("regraft.evaluation.paired.MOST_VISITS", 1)
    _, _, limit = paired(400, 0.06)
    assert limit.p_value == pytest.approx(drawn.p_value, abs=0.02)
    assert limit.p_value == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=0.02)
    assert limit.difference.high - limit.difference.low == pytest.approx(drawn.difference.high - drawn.difference.low, rel=0.05)


def test_equal_models_are_called_different_as_often_as_stated():
    verdicts = [paired(40, 0.0, seed=seed, resamples=300)[2].verdict for seed in range(300)]
    assert 0.02 < np.mean([verdict != "no evidence" for verdict in verdicts]) < 0.09


def test_less_is_better_and_the_sentence_says_by_how_much():
    a, b, found = paired(200, 0.4)
    assert found.verdict == "better"
    assert found.difference.value < 0
    assert found.difference.high < 0
    text = found.sentence()
    assert text.startswith(f"new is better than old: mae {(b - a).mean():+.3g} [")
    assert text.endswith("n = 200.")
    assert Comparison.from_json(found.to_json()) == found
    worse = compare_sums((b[:, None], a[:, None]), Quantity("mae", False, mean_of_rows), ("new", "old"), options=QUICK)
    assert worse.verdict == "worse"
    same = compare_sums((a[:, None], a[:, None]), Quantity("mae", False, mean_of_rows), ("a", "b"), options=QUICK)
    assert (same.p_value, same.verdict, same.difference.value) == (1.0, "no evidence", 0.0)
    assert same.sentence().endswith("n = 200. Both are as near on every row.")


def ladder_rows(rows, seed, width=5):
    rng = np.random.default_rng(seed)
    features = (rng.normal(size=(rows, width)) * np.arange(1, width + 1) + 3).astype(np.float32)
    targets = 1e4 + features.astype(np.float64) @ np.array([5.0, -2, 0, 1, 0])[:width] + rng.normal(scale=2.0, size=rows)
    return Rows(features, targets)


@pytest.mark.parametrize("chunk", [16_384, 13])
def test_the_ridge_probe_is_that_of_scikit_learn_with_the_best_penalty(chunk, monkeypatch):
    monkeypatch.setattr("regraft.evaluation.rungs.CHUNK_ROWS", chunk)
    monkeypatch.setattr("regraft.evaluation.rungs_of_numbers.CHUNK_ROWS", chunk)
    train, valid, test = ladder_rows(90, 1), ladder_rows(40, 2), ladder_rows(30, 3)
    wide = train.features_ND.astype(np.float64)
    scale = lambda features: (features.astype(np.float64) - wide.mean(0)) / wide.std(0)  # noqa: E731
    rung_class = RUNGS.get("ridge-probe")
    fits = {}
    for alpha in rung_class.PENALTIES:
        model = linear_model.Ridge(alpha=alpha).fit(scale(wide), train.targets_N)
        fits[alpha] = (np.square(model.predict(scale(valid.features_ND)) - valid.targets_N).mean(), model)
    best = min(fits, key=lambda alpha: fits[alpha][0])
    contender = Contender(name="fitted", probabilities_NC=test.targets_N[:, None])
    rows = LadderRows(train=train, valid=valid, test=test, labels=(), answers="numbers")
    steps = {step.name: step for step in build_ladder(rows, contender, ["mae", "r2"], options=QUICK).steps}
    assert steps["ridge-probe"].note == f"alpha = {best:g}"
    expected = reference.mean_absolute_error(test.targets_N, fits[best][1].predict(scale(test.features_ND)))
    assert steps["ridge-probe"].metrics["mae"].value == pytest.approx(expected, rel=1e-9)
    assert steps["mean"].metrics["mae"].value == pytest.approx(np.abs(test.targets_N - train.targets_N.mean()).mean())
    assert steps["median"].metrics["mae"].value == pytest.approx(np.abs(test.targets_N - np.median(train.targets_N)).mean())
    assert steps["ridge-probe"].metrics["r2"].value > 0.9


def test_without_validation_rows_the_penalty_is_chosen_on_a_fifth_and_constants_know_all_rows():
    train = ladder_rows(60, 1)
    rows = LadderRows(
        train=train, valid=no_rows(5), test=ladder_rows(20, 2), labels=(), answers="numbers", train_targets=np.arange(1000.0)
    )
    contender = Contender(name="fitted", probabilities_NC=rows.test.targets_N[:, None])
    steps = {step.name: step for step in build_ladder(rows, contender, ["mae"], options=QUICK).steps}
    assert steps["ridge-probe"].note.endswith(", chosen on a fifth of the training rows; learnt from 60 of 1,000 training rows")
    assert steps["median"].metrics["mae"].value == pytest.approx(np.abs(rows.test.targets_N - 499.5).mean())


def test_quantiles_around_the_ridge_cover_what_they_say():
    rows = LadderRows(
        train=ladder_rows(400, 1), valid=ladder_rows(300, 2), test=ladder_rows(600, 3), labels=LEVELS, answers="quantiles"
    )
    contender = Contender(name="fitted", probabilities_NC=np.tile(rows.test.targets_N[:, None], (1, 3)))
    steps = {step.name: step for step in build_ladder(rows, contender, ["pinball", "coverage"], options=QUICK).steps}
    assert steps["ridge-quantiles"].metrics["coverage"].value == pytest.approx(0.8, abs=0.06)
    assert steps["quantiles-of-all"].metrics["coverage"].value == pytest.approx(0.8, abs=0.06)
    assert steps["ridge-quantiles"].against_previous.verdict == "better"


def test_one_value_in_training_is_refused():
    rows = LadderRows(
        train=Rows(np.ones((4, 2)), np.ones(4)), valid=no_rows(2), test=ladder_rows(5, 1, 2), labels=(), answers="numbers"
    )
    with pytest.raises(DataError, match="training rows of two values"):
        build_ladder(rows, Contender(name="x", probabilities_NC=np.ones((5, 1))), ["mae"], options=QUICK)
