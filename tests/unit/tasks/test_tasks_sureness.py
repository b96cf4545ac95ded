"""What is told beside answers, for every kind of answer, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, softmax

from regraft.calibrating import check, learnt
from regraft.calibration.options import CalibrateOptions
from regraft.calibration.temperature import Temperature
from regraft.calibration.trust import NOTHING, Trust
from regraft.errors import OptionsError, UsageError
from regraft.options import Pick
from regraft.tasks import TASKS
from regraft.tasks.multi_target import MultiTarget, MultiTargetOptions
from regraft.tasks.sureness import Asked, answered, take_trust, trust_of
from regraft.tasks.sureness import check as check_asked
from regraft.types import Ledger

WANTED = CalibrateOptions()


def task_of(name, values, **options):
    cls = TASKS.get(name)
    task = cls(cls.Options(**options))
    task.learn(values, Ledger())
    return task


def classes(rows=400, seed=0):
    """Answers that are three times too sure."""
    rng = np.random.default_rng(seed)
    task = task_of("classification", ["a", "b", "c"] * 3)
    logits = 1.5 * rng.normal(size=(rows, 3))
    truth = (rng.random((rows, 1)) > np.cumsum(softmax(logits, axis=1), axis=1)).sum(axis=1)
    return task, (3 * logits).astype(np.float32), truth


def trusted(method="temperature"):
    task, outputs, truth = classes()
    task.trust = learnt(task.parts[0], outputs, truth, CalibrateOptions(method=method), 0)
    return task, outputs, truth


def test_probabilities_are_calibrated_and_logits_stay_raw():
    task, outputs, _ = trusted()
    (temperature,) = task.trust.calibrator.state()["temperatures"]
    expected = softmax(outputs.astype(np.float64) / temperature, axis=1)
    np.testing.assert_allclose(task.probabilities(outputs), expected, atol=1e-12)
    one = task.decode(outputs[:1])[0]
    np.testing.assert_allclose(list(one.probabilities.values()), expected[0], atol=1e-12)
    assert one.logits == tuple(outputs[0].tolist())
    np.testing.assert_allclose(task.bare().probabilities(outputs), softmax(outputs.astype(np.float64), axis=1), atol=1e-12)


def test_labels_and_ranks_are_calibrated_in_their_own_way():
    logits = np.array([[2.0, -1.0], [0.5, 3.0]])
    labels = task_of("multi-label", [["a"], ["b"], ["a", "b"], []])
    labels.trust = Trust(calibrator=Temperature(np.array([2.0, 0.5])))
    np.testing.assert_allclose(labels.probabilities(logits), expit(logits / [2.0, 0.5]), atol=1e-12)
    ranks = task_of("ordinal", [1, 2, 3, 1, 2])
    ranks.trust = Trust(calibrator=Temperature(np.array([2.0, 0.5])))
    on = expit(logits / [2.0, 0.5])
    expected = np.stack([1 - on[:, 0], on[:, 0] * (1 - on[:, 1]), on[:, 0] * on[:, 1]], axis=1)
    np.testing.assert_allclose(ranks.probabilities(logits), expected, atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("method", ["temperature", "vector", "beta", "isotonic"])
def test_a_row_that_is_not_finite_stays_without_an_answer(bad, method):
    task, outputs, truth = classes(100)
    task.trust = learnt(task.parts[0], outputs, truth, CalibrateOptions(method=method), 0)
    rows = outputs[:3].copy()
    rows[1, 0] = bad
    first, broken, last = answered(task, rows, Asked(coverage=0.9, min_confidence=0.5))
    assert broken.error
    assert broken.set is None
    assert broken.to_json() == {"prediction": None, "error": broken.error}
    assert first.set
    assert last.abstained is not None


def test_sets_hold_the_truth_and_are_told_in_the_types_of_labels():
    task, outputs, truth = classes(3000)
    task.trust = learnt(task.parts[0], outputs[:1000], truth[:1000], WANTED, 0)
    answers = answered(task, outputs[1000:], Asked(coverage=0.9))
    inside = np.mean([task.labels[label] in one.set for label, one in zip(truth[1000:], answers, strict=True)])
    assert inside == pytest.approx(0.9, abs=0.04)
    assert all(one.value in one.set for one in answers)
    assert answers[0].to_json()["set"] == list(answers[0].set)
    numbers = task_of("classification", [1, 2, 3] * 3)
    numbers.trust = task.trust
    assert all(type(label) is int for one in answered(numbers, outputs[:5], Asked(coverage=0.9)) for label in one.set)


def test_intervals_of_numbers_and_of_quantiles_hold_the_truth():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=2000)
    for options, width in (({}, 1), ({"quantiles": (0.1, 0.9)}, 3)):
        task = task_of("regression", [float(value) for value in truth[:100]], **options)
        outputs = np.concatenate([0.5 * truth[:, None], rng.normal(size=(2000, width - 1)) - 2], axis=1)
        task.trust = learnt(task.parts[0], outputs[:800], truth[:800], WANTED, 0)
        answers = answered(task, outputs[800:], Asked(coverage=0.9))
        inside = np.mean([one.interval[0] <= value <= one.interval[1] for value, one in zip(truth[800:], answers, strict=True)])
        assert inside == pytest.approx(0.9, abs=0.04)
        assert {"interval.low", "interval.high"} <= set(answers[0].numbers)
        assert answers[0].to_json()["interval"] == list(answers[0].interval)


def test_an_answer_is_marked_below_a_confidence_and_keeps_its_value():
    task, outputs, _ = trusted()
    answers = answered(task, outputs, Asked(min_confidence=0.6))
    for one in answers:
        assert one.abstained == (max(one.probabilities.values()) < 0.6)
        assert one.value is not None
    assert {one.to_json()["abstained"] for one in answers} == {True, False}


def test_a_precision_takes_the_threshold_that_was_found_on_validation_rows():
    task, outputs, truth = classes(4000)
    task.trust = learnt(task.parts[0], outputs[:2000], truth[:2000], WANTED, 0)
    threshold = task.trust.thresholds.threshold(0.85)
    answers = answered(task, outputs[2000:], Asked(precision=0.85))
    given = [(one, label) for one, label in zip(answers, truth[2000:], strict=True) if not one.abstained]
    assert all(max(one.probabilities.values()) >= threshold for one, _ in given)
    assert np.mean([one.value == task.labels[label] for one, label in given]) >= 0.85
    both = answered(task, outputs[2000:], Asked(precision=0.85, min_confidence=0.999))
    assert sum(not one.abstained for one in both) <= len(given), "the stricter of the two counts"


def test_nothing_is_told_that_was_not_asked_for():
    task, outputs, _ = trusted()
    assert answered(task, outputs[:4]) == task.decode(outputs[:4])
    assert set(task.decode(outputs[:1])[0].to_json()) == {"prediction", "probabilities"}


def several():
    wanted = MultiTargetOptions(targets={"kind": Pick("classification"), "price": Pick("regression")})
    task = MultiTarget(wanted)
    task.learn([{"kind": "ab"[n % 2], "price": float(n)} for n in range(20)], Ledger())
    rng = np.random.default_rng(2)
    outputs = rng.normal(size=(300, 3))
    for part, truth in zip(task.parts, (rng.integers(0, 2, 300), rng.normal(size=300) * 5 + 10), strict=True):
        part.task.trust = learnt(part, outputs[:, part.outputs], truth, WANTED, 0)
    return task, outputs


def test_each_of_several_targets_has_its_own():
    task, outputs = several()
    one = answered(task, outputs[:1], Asked(coverage=0.8, min_confidence=0.7))[0]
    told = one.to_json()
    assert told["set"] == {"kind": list(one.parts["kind"].set)}
    assert told["interval"] == {"price": list(one.parts["price"].interval)}
    assert set(told["abstained"]) == {"kind"}
    assert {"interval.price.low", "interval.price.high"} <= set(one.numbers)


def test_what_is_known_survives_json_and_goes_to_its_target():
    task, outputs = several()
    again, _ = several()
    for part in again.parts:
        part.task.trust = NOTHING
    take_trust(again, json.loads(json.dumps(trust_of(task), allow_nan=False)))
    asked = Asked(coverage=0.8, min_confidence=0.7)
    assert answered(again, outputs, asked) == answered(task, outputs, asked)
    assert trust_of(again) == trust_of(task)
    bare = task.bare()
    assert trust_of(bare) == {}
    assert trust_of(task), "the task itself stays as it was"


def test_what_cannot_be_told_is_refused_with_what_to_do():
    plain, _, _ = classes(10)
    with pytest.raises(UsageError) as caught:
        check_asked(plain, Asked(coverage=0.9, precision=0.9))
    text = str(caught.value)
    assert "the artifact cannot give sets or intervals that hold the truth with a stated chance" in text
    assert "no confidence promises that 0.9 of the answers are right" in text
    assert "regraft fit ... --valid FILE" in text
    task, _, _ = trusted()
    with pytest.raises(UsageError, match="too few validation rows for such a coverage"):
        check_asked(task, Asked(coverage=0.999))
    check_asked(task, Asked(coverage=0.99))
    with pytest.raises(UsageError, match=r"no confidence promises that 0\.9999 of the answers are right"):
        check_asked(task, Asked(precision=0.9999))
    labels = task_of("multi-label", [["a"], ["b"], []])
    with pytest.raises(UsageError, match="only answers that are one label of several"):
        check_asked(labels, Asked(min_confidence=0.5))


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("classification", {"method": "isotonik"}, "there is no calibrator 'isotonik' for the task 'classification'"),
        ("classification", {"method": "shift"}, "there is no calibrator 'shift' for the task 'classification'"),
        ("regression", {"method": "temperature"}, "there is no calibrator 'temperature' for the task 'regression'"),
        ("classification", {"score": Pick("cqr")}, "the score 'cqr' is not for the answers of the task 'classification'"),
    ],
)
def test_a_method_that_is_for_other_answers_is_refused_before_any_work(name, options, text):
    cls = TASKS.get(name)
    with pytest.raises(OptionsError) as caught:
        check(cls(cls.Options()), CalibrateOptions(**options))
    assert text in str(caught.value)


def test_none_and_auto_are_for_every_task():
    for name in TASKS:
        cls = TASKS.get(name)
        if not cls.several:
            check(cls(cls.Options()), CalibrateOptions(method="none"))
            check(cls(cls.Options()), CalibrateOptions())


def test_scores_are_those_of_rows_that_the_calibrator_did_not_learn_from():
    task, outputs, truth = classes(100)
    heart = learnt(task.parts[0], outputs, truth, CalibrateOptions(method="isotonic"), 0)
    by_heart = replace(task.trust, calibrator=heart.calibrator)
    task.trust = by_heart
    inside = np.sort(heart.conformal.score.of_truth(task.probabilities(outputs), truth))
    assert not np.allclose(inside, heart.conformal.ranked[0].values)
    assert heart.thresholds.rows == 100
