"""The ladder: each rung against an independent computation, sampling, verdicts, refusals."""

import builtins
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from regraft.errors import DataError, MissingExtraError, OptionsError
from regraft.evaluation import METRICS, RUNGS
from regraft.evaluation.answer_kind import fitting_names
from regraft.evaluation.compare import compare_predictions
from regraft.evaluation.judge import judge
from regraft.evaluation.ladder import Contender, LadderRows, Step, build_ladder, climb
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.rung import Rows, Rung, RungRows, no_rows
from regraft.evaluation.rungs import LinearProbe, Majority, NearestCentroid
from regraft.evaluation.rungs_of_numbers import RidgeProbe
from regraft.evaluation.rungs_zero_shot import ZeroShot, are_words, as_text
from regraft.evaluation.sample import stratified

QUICK = JudgeOptions(resamples=200)
NAMES = ["good news", "bad_news", "advert"]


def draw(n, classes=3, width=6, seed=0, shift=1.5):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, n)
    features = rng.normal(size=(n, width)).astype(np.float32) * np.arange(1, width + 1, dtype=np.float32) + 5
    features[np.arange(n), targets] += shift
    return Rows(features, targets)


def rung_rows(train, valid, classes=3):
    return RungRows(train=train, valid=valid, class_counts_C=np.bincount(train.targets_N, minlength=classes))


def fitted(test, classes=3, sure=0.9):
    """Return a contender that is right on all rows but every tenth."""
    given = test.targets_N.copy()
    given[::10] = (given[::10] + 1) % classes
    return Contender(
        name="fitted", probabilities_NC=np.eye(classes)[given] * sure + (1 - sure) / classes, seconds=12.5, note="3 epochs"
    )


def test_majority_says_the_shares_of_the_training_classes():
    rung = Majority()
    rung.fit(RungRows(train=no_rows(2), valid=no_rows(2), class_counts_C=np.array([1, 6, 3])))
    np.testing.assert_array_equal(rung.probabilities(np.zeros((2, 5))), [[0.1, 0.6, 0.3]] * 2)


def naive_centroid(train, other, temperature):
    mean, deviation = train.features_ND.astype(np.float64).mean(0), train.features_ND.astype(np.float64).std(0)

    def unit(features):
        scaled = (features.astype(np.float64) - mean) / deviation
        return scaled / np.linalg.norm(scaled, axis=1, keepdims=True)

    points = unit(train.features_ND)
    centroids = np.stack([points[train.targets_N == c].mean(axis=0) for c in range(3)])
    distances = np.square(unit(other)[:, None] - centroids).sum(axis=2)
    return softmax(-distances / temperature, axis=1)


@pytest.mark.parametrize("chunk", [16_384, 7])
def test_nearest_centroid_equals_a_plain_computation(chunk, monkeypatch):
    monkeypatch.setattr("regraft.evaluation.rungs.CHUNK_ROWS", chunk)
    train, valid, test = draw(120, seed=1), draw(40, seed=2), draw(30, seed=3)
    rung = NearestCentroid()
    rung.fit(rung_rows(train, valid))

    def loss(temperature):
        given = naive_centroid(train, valid.features_ND, temperature)
        return -np.log(given[np.arange(40), valid.targets_N]).mean()

    best = min(NearestCentroid.TEMPERATURES, key=loss)
    expected = naive_centroid(train, test.features_ND, best)
    np.testing.assert_allclose(rung.probabilities(test.features_ND), expected, rtol=1e-9)
    assert rung.note == ""


def test_nearest_centroid_chooses_its_temperature_on_training_rows_if_it_must():
    rung = NearestCentroid()
    rung.fit(rung_rows(draw(120), no_rows(6)))
    assert rung.note == "temperature chosen on the training rows"
    assert rung.probabilities(np.empty((0, 6))).shape == (0, 3)


@pytest.mark.filterwarnings("error")
def test_constant_features_and_missing_classes_are_harmless():
    train = draw(60, classes=2)
    train.features_ND[:, 3] = 0.1
    train.features_ND[:, 4] = -1e6
    for rung in (NearestCentroid(), LinearProbe()):
        rung.fit(rung_rows(train, draw(20, classes=2), classes=4))
        other = draw(10, classes=2).features_ND
        other[0] = train.features_ND.mean(axis=0)
        found = rung.probabilities(other)
        assert found.shape == (10, 4)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found.sum(axis=1), 1.0)
        assert (found[:, 2:] == 0).all()


def test_linear_probe_is_scikit_learns_regression_at_the_strength_with_the_least_validation_loss():
    train, valid, test = draw(200, seed=1), draw(80, seed=2), draw(50, seed=3)
    rung = LinearProbe()
    rung.fit(rung_rows(train, valid))
    wide = train.features_ND.astype(np.float64)
    scale = lambda features: (features.astype(np.float64) - wide.mean(0)) / wide.std(0)  # noqa: E731
    losses = {}
    for strength in LinearProbe.STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=5000, tol=1e-10).fit(scale(wide), train.targets_N)
        given = model.predict_proba(scale(valid.features_ND))
        losses[strength] = (-np.log(given[np.arange(80), valid.targets_N]).mean(), model)
    best = min(losses, key=lambda strength: losses[strength][0])
    assert rung.note == f"C = {best:g}"
    np.testing.assert_allclose(
        rung.probabilities(test.features_ND), losses[best][1].predict_proba(scale(test.features_ND)), atol=5e-4
    )


def test_linear_probe_without_validation_rows_holds_out_a_fifth():
    train = draw(100)
    rungs = [LinearProbe(seed=3) for _ in range(2)]
    for rung in rungs:
        rung.fit(rung_rows(train, no_rows(6)))
    assert rungs[0].note.endswith(", chosen on a fifth of the training rows")
    one, other = (rung.probabilities(draw(9, seed=8).features_ND) for rung in rungs)
    np.testing.assert_array_equal(one, other)


def test_linear_probe_learns_from_two_rows():
    train = Rows(np.array([[0.0, 1.0], [1.0, 0.0]], dtype=np.float32), np.array([0, 1]))
    rung = LinearProbe()
    rung.fit(rung_rows(train, no_rows(2), classes=2))
    assert rung.probabilities(train.features_ND).argmax(axis=1).tolist() == [0, 1]


def test_a_probe_that_does_not_converge_says_so_and_warns_nobody(monkeypatch):
    monkeypatch.setattr(LinearProbe, "MOST_ITERATIONS", 1)
    rung = LinearProbe()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rung.fit(rung_rows(draw(200), draw(50, seed=1)))
    assert rung.note.endswith("; not converged after 1 iterations")


def test_a_probe_without_scikit_learn_names_the_extra(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name.startswith("sklearn"):
            raise ModuleNotFoundError(f"No module named '{name}'", name="sklearn")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtraError) as caught:
        LinearProbe().fit(rung_rows(draw(20), draw(10)))
    assert "'linear-probe' (rungs) needs the package 'sklearn'" in str(caught.value)
    assert "pip install 'regraft[train]'" in str(caught.value)


def test_a_sample_keeps_every_class_and_its_share():
    targets = np.array([0] * 900 + [1] * 97 + [2] * 3)
    chosen = stratified(targets, 100, seed=1)
    assert len(chosen) == 100 == len(set(chosen.tolist()))
    assert (np.diff(chosen) > 0).all()
    counts = np.bincount(targets[chosen])
    assert 89 <= counts[0] <= 91
    assert counts[2] >= 1
    np.testing.assert_array_equal(chosen, stratified(targets, 100, seed=1))
    assert not np.array_equal(chosen, stratified(targets, 100, seed=2))
    np.testing.assert_array_equal(stratified(targets, 1000, seed=1), np.arange(1000))


def ladder_rows(**changes):
    made = {"train": draw(300, seed=1), "valid": draw(90, seed=2), "test": draw(100, seed=3), "labels": ["a", "b", "c"]}
    return LadderRows(**(made | changes))


def test_the_ladder_is_climbed_from_majority_to_fitted():
    rows = ladder_rows()
    model = fitted(rows.test)
    ladder = build_ladder(rows, model, ["accuracy", "macro-f1"], options=QUICK, seed=4)
    assert [step.name for step in ladder.steps] == ["majority", "nearest-centroid", "linear-probe", "fitted"]
    assert ladder.steps[0].against_previous is None
    for below, step in zip(ladder.steps, ladder.steps[1:], strict=False):
        assert (step.against_previous.a, step.against_previous.b) == (below.name, step.name)
        gained = step.metrics["accuracy"].value - below.metrics["accuracy"].value
        assert step.against_previous.difference.value == pytest.approx(gained)
    last = ladder.steps[-1]
    assert (last.seconds, last.note) == (12.5, "3 epochs")
    expected = judge(["accuracy", "macro-f1"], rows.test.targets_N, model.probabilities_NC, rows.labels, options=QUICK, seed=4)
    assert last.metrics == expected.metrics
    assert ladder.verdict.verdict == "better"
    assert all(step.seconds > 0 for step in ladder.steps[:3])


def test_the_verdict_is_against_the_strongest_rung_below():
    targets = np.arange(40) % 2
    right = np.eye(2)[targets]

    def contender(name, wrong):
        given = right.copy()
        given[:wrong] = given[:wrong, ::-1]
        return Contender(name=name, probabilities_NC=given)

    steps = [contender("weak", 20), contender("strong", 2), contender("middle", 9), contender("fitted", 2)]
    ladder = climb(steps, targets, ["a", "b"], ["accuracy"], options=QUICK)
    assert (ladder.verdict.a, ladder.verdict.b, ladder.verdict.verdict) == ("strong", "fitted", "no evidence")
    assert ladder.steps[2].against_previous.verdict == "worse"
    assert ladder.steps[3].against_previous.verdict == "better"
    tie = climb([contender("low", 5), contender("high", 5), contender("fitted", 0)], targets, ["a", "b"], ["accuracy"])
    assert tie.verdict.a == "high"


def test_two_artifacts_are_compared_on_the_same_ladder():
    rows = draw(100, seed=3)
    old = Contender(name="old", probabilities_NC=np.full((100, 3), 1 / 3))
    new = fitted(rows)
    ladder = climb([old, new], rows.targets_N, list("abc"), ["accuracy"], options=QUICK, seed=2)
    expected = compare_predictions(rows.targets_N, old.probabilities_NC, new.probabilities_NC, ("old", "fitted"), options=QUICK)
    assert ladder.verdict == expected == ladder.steps[1].against_previous


def test_a_large_training_set_is_sampled_and_said_so():
    rows = ladder_rows(class_counts_C=np.array([10, 980, 10]))
    ladder = build_ladder(rows, fitted(rows.test), ["accuracy"], options=JudgeOptions(resamples=100, probe_rows=60))
    notes = {step.name: step.note for step in ladder.steps}
    assert notes["majority"] == ""
    assert notes["nearest-centroid"] == "learnt from 60 of 1,000 training rows"
    assert notes["linear-probe"].endswith("; learnt from 60 of 1,000 training rows")
    share_of_b = (rows.test.targets_N == 1).mean()
    assert ladder.steps[0].metrics["accuracy"].value == pytest.approx(share_of_b)


def test_rungs_can_be_chosen():
    rows = ladder_rows()
    options = JudgeOptions(resamples=100, rungs=("majority",))
    ladder = build_ladder(rows, fitted(rows.test), ["accuracy"], options=options)
    assert [step.name for step in ladder.steps] == ["majority", "fitted"]


class Coin(Rung):
    """A rung from outside."""

    def fit(self, rows):
        self._classes = rows.classes

    def probabilities(self, features_ND):
        return np.random.default_rng(self.seed).dirichlet(np.ones(self._classes), size=len(features_ND))


def test_a_rung_is_added_with_one_line(monkeypatch):
    RUNGS.add("coin", f"{__name__}:Coin")
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or type(sys)(__name__))
    sys.modules[__name__].Coin = Coin
    try:
        rows = ladder_rows()
        ladder = build_ladder(rows, fitted(rows.test), ["accuracy"], options=QUICK)
        assert [step.name for step in ladder.steps][-2:] == ["coin", "fitted"]
    finally:
        RUNGS.discard("coin")


def test_every_rung_is_the_same_again_and_gives_probabilities():
    rows = ladder_rows(train=with_words(draw(300, seed=1)), labels=NAMES)
    for name in fitting_names(RUNGS, "classes"):
        given = []
        for _ in range(2):
            rung = RUNGS.get(name)(seed=7)
            rung.fit(replace(rung_rows(rows.train, rows.valid), kind=rows.kind))
            given.append(rung.probabilities(rows.test.features_ND))
        np.testing.assert_array_equal(*given)
        assert given[0].dtype == np.float64
        np.testing.assert_allclose(given[0].sum(axis=1), 1.0)
        assert (given[0] >= 0).all()


def test_frozen_features_beat_the_majority_on_learnable_rows():
    train, valid, test = (draw(n, seed=s, shift=12) for n, s in ((300, 1), (60, 2), (150, 3)))
    rows = ladder_rows(train=train, valid=valid, test=test)
    ladder = build_ladder(rows, fitted(test), fitting_names(METRICS, "classes"), options=QUICK)
    majority, centroid, probe, _ = (step.metrics for step in ladder.steps)
    for rung in (centroid, probe):
        assert rung["accuracy"].low > majority["accuracy"].high
        assert rung["log-loss"].high < majority["log-loss"].low


def test_a_step_survives_json():
    rows = ladder_rows()
    for step in build_ladder(rows, fitted(rows.test), ["accuracy", "roc-auc"], options=QUICK).steps:
        assert Step.from_json(step.to_json()) == step


def refused(error, rows, **keywords):
    with pytest.raises(error) as caught:
        build_ladder(rows, fitted(rows.test), ["accuracy"], **keywords)
    return str(caught.value)


def test_one_training_class_is_refused():
    one = Rows(np.ones((5, 6), dtype=np.float32), np.zeros(5, dtype=int))
    text = refused(DataError, ladder_rows(train=one))
    assert "the baselines need training rows of two classes" in text
    assert "got: 1 class in 5 rows" in text


def test_everything_wrong_with_features_is_reported_together():
    broken = draw(20)
    broken.features_ND[7, 2] = np.inf
    short = Rows(draw(9).features_ND[:5], draw(9).targets_N)
    text = refused(DataError, ladder_rows(train=broken, valid=short))
    assert "2 problems" in text
    assert "where: train, row 7 (counted from 0)" in text
    assert "features of shape (5, 6), 9 targets" in text
    outside = Rows(draw(9).features_ND, draw(9).targets_N - 1)
    assert "targets are out of range" in refused(DataError, ladder_rows(train=outside))


def test_an_unknown_rung_is_refused_with_the_nearest_name():
    text = refused(OptionsError, ladder_rows(), options=JudgeOptions(rungs=("majorty", "linear-prob")))
    assert "2 problems" in text
    assert "did you mean 'majority'?" in text
    assert "did you mean 'linear-probe'?" in text


def test_probabilities_of_the_wrong_model_are_named():
    rows = ladder_rows()
    with pytest.raises(DataError, match="tuned cannot be judged on these arrays"):
        build_ladder(rows, Contender(name="tuned", probabilities_NC=np.eye(3)), ["accuracy"], options=QUICK)


def test_a_ladder_of_one_is_no_ladder():
    with pytest.raises(ValueError, match="at least two rungs"):
        climb([Contender(name="a", probabilities_NC=np.eye(2))], np.array([0, 1]), ["a", "b"], ["accuracy"])


def with_words(train, names=NAMES, seed=9):
    """Return training rows that know the features of the labels' names."""
    vectors = np.random.default_rng(seed).normal(size=(len(names), train.features_ND.shape[1])).astype(np.float32)
    return replace(train, words=dict(zip(names, vectors, strict=True)))


def test_zero_shot_is_the_nearest_name_by_cosine():
    rows = ladder_rows(train=with_words(draw(300, seed=1)), labels=NAMES)
    rung = ZeroShot()
    rung.fit(replace(rung_rows(rows.train, rows.valid), kind=rows.kind))
    names = np.stack([rows.train.words[name] for name in NAMES]).astype(np.float64)

    def cosines(features):
        return (features @ names.T) / np.linalg.norm(features, axis=1)[:, None] / np.linalg.norm(names, axis=1)

    def loss(temperature):
        given = softmax(cosines(rows.valid.features_ND.astype(np.float64)) / temperature, axis=1)
        return -np.log(np.maximum(given[np.arange(90), rows.valid.targets_N], 1e-16)).mean()

    best = min(ZeroShot.TEMPERATURES, key=loss)
    expected = softmax(cosines(rows.test.features_ND.astype(np.float64)) / best, axis=1)
    np.testing.assert_allclose(rung.probabilities(rows.test.features_ND), expected, rtol=1e-9)
    assert rung.note == (
        "the nearest of the names 'good news', 'bad news', 'advert', read as texts by the base; "
        "the validation rows chose the temperature only"
    )


def test_zero_shot_learns_nothing_but_the_temperature():
    """Other training rows, the same decisions."""
    one, other = (with_words(draw(200, seed=seed)) for seed in (1, 2))
    test, given = draw(50, seed=3), []
    for train in (one, other):
        rung = ZeroShot()
        rung.fit(replace(rung_rows(train, no_rows(6)), kind=ladder_rows(labels=NAMES).kind))
        given.append(rung.probabilities(test.features_ND).argmax(axis=1))
        assert rung.note.endswith("the training rows chose the temperature only")
    np.testing.assert_array_equal(*given)


def test_zero_shot_stands_on_the_ladder_only_where_names_were_read():
    with_names = build_ladder(
        ladder_rows(train=with_words(draw(300, seed=1)), labels=NAMES), fitted(draw(100, seed=3)), ["accuracy"], options=QUICK
    )
    assert [step.name for step in with_names.steps] == ["majority", "zero-shot", "nearest-centroid", "linear-probe", "fitted"]
    for labels, train in ((NAMES, draw(300, seed=1)), (["a", "b", "c"], with_words(draw(300, seed=1)))):
        without = build_ladder(ladder_rows(train=train, labels=labels), fitted(draw(100, seed=3)), ["accuracy"], options=QUICK)
        assert "zero-shot" not in [step.name for step in without.steps]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["ham", "spam"], True),
        (["customer_service", "sales-call"], True),
        (["好", "坏"], True),
        (["class1", "class2"], False),
        (["label_0", "label_1"], False),
        (["A", "B"], False),
        ([0, 1], False),
        ([True, False], False),
        (["ham", "2"], False),
        (["spam"], False),
    ],
)
def test_which_labels_are_words(labels, words):
    assert are_words(labels) is words


def test_names_are_read_as_texts():
    assert as_text(" customer_service--calls ") == "customer service calls"


def test_every_rung_says_what_it_costs():
    """Features cost what the network that gives them costs, and each rung adds its own."""
    rows = ladder_rows(train=with_words(draw(300, seed=1)), labels=NAMES)
    model = replace(fitted(rows.test), size_bytes=1_000_000, latency_ms=5.0)
    steps = {step.name: step for step in build_ladder(rows, model, ["accuracy"], options=QUICK).steps}
    assert steps["majority"].size_bytes == 3 * 8, "a share a class"
    assert steps["majority"].latency_ms < 1.0
    assert steps["zero-shot"].size_bytes == 1_000_000 + 3 * 6 * 8, "a name a class"
    assert steps["nearest-centroid"].size_bytes == 1_000_000 + 3 * 6 * 8 + 2 * 6 * 8 + 3, "centroids, scales, empty classes"
    assert steps["linear-probe"].size_bytes > 1_000_000 + 3 * 7 * 8
    assert all(steps[name].latency_ms > 5.0 for name in ("zero-shot", "nearest-centroid", "linear-probe"))
    assert (steps["fitted"].size_bytes, steps["fitted"].latency_ms) == (1_000_000, 5.0)
    told = steps["linear-probe"].to_json()["cost"]
    assert told == {
        "seconds": steps["linear-probe"].seconds,
        "size_bytes": steps["linear-probe"].size_bytes,
        "latency_ms": steps["linear-probe"].latency_ms,
    }
    unknown = {step.name: step for step in build_ladder(rows, fitted(rows.test), ["accuracy"], options=QUICK).steps}
    assert unknown["linear-probe"].size_bytes is None
    assert unknown["majority"].size_bytes == 24


def test_a_ridge_keeps_only_what_it_answers_with():
    rows = Rows(draw(200).features_ND, np.random.default_rng(0).normal(size=200))
    rung = RidgeProbe()
    rung.fit(RungRows(train=rows, valid=rows, class_counts_C=np.empty(0)))
    assert rung.size_bytes <= (3 * 6 + 200) * 8, "weights, scales and the errors of the validation rows"


def test_reports_of_before_there_were_costs_are_read():
    step = build_ladder(ladder_rows(), fitted(draw(100, seed=3)), ["accuracy"], options=QUICK).steps[0]
    told = step.to_json()
    del told["cost"]
    assert Step.from_json(told) == replace(step, size_bytes=None, latency_ms=None)


def test_what_stood_before_is_the_rung_below_the_fitted():
    rows = ladder_rows()
    previous = Contender(
        name="previous", probabilities_NC=fitted(rows.test, sure=0.6).probabilities_NC, note="the artifact 'v1'"
    )
    ladder = build_ladder(rows, fitted(rows.test), ["accuracy"], options=QUICK, before=[previous])
    assert [step.name for step in ladder.steps][-2:] == ["previous", "fitted"]
    assert ladder.steps[-1].against_previous.a == "previous"
    assert (ladder.verdict.a, ladder.verdict.verdict) == ("previous", "no evidence")
