"""Fairness over groups against plain counting, and what it says where it cannot say anything."""

import json

import numpy as np
import pytest
import scipy.stats

from regraft.evaluation.answer_kind import kind_of
from regraft.evaluation.fairness import Fairness, fairness_of, positive_problems
from regraft.evaluation.metadata import described
from regraft.evaluation.options import JudgeOptions
from regraft.options import build
from regraft.tasks import TASKS
from regraft.types import Ledger

BINARY = ("no", "yes")


def judged(rows=600, groups=("f", "m"), tilt=0.0, classes=2, seed=0):
    """Classes and answers; the last group is given the last class more often by `tilt`."""
    rng = np.random.default_rng(seed)
    group = rng.choice(groups, rows)
    truth = rng.integers(0, classes, rows)
    given = np.where(rng.random(rows) < 0.8, truth, rng.integers(0, classes, rows))
    given = np.where((group == groups[-1]) & (rng.random(rows) < tilt), classes - 1, given)
    return group, truth, given


def fair(group, truth, given, labels=BINARY, **options):
    wanted = JudgeOptions(resamples=2000, fairness="sex", **options)
    outputs = np.eye(len(labels))[given]
    column = described("sex", list(group), asked=True)
    return fairness_of(kind_of("classes", labels), truth, outputs, column, wanted, 0)


def test_rates_are_those_of_plain_counting():
    group, truth, given = judged(tilt=0.3)
    found, notes = fair(group, truth, given, positive="yes")
    assert notes == []
    assert (found.column, found.positive, found.declared) == ("sex", "yes", True)
    rates = {}
    for one in found.groups:
        inside = group == one.group
        rates[one.group] = (given[inside] == 1).mean(), (given[inside & (truth == 1)] == 1).mean()
        assert one.n == inside.sum()
        assert not one.too_small
        assert (one.positive_rate.value, one.true_positive_rate.value) == pytest.approx(rates[one.group])
        assert one.accuracy.value == pytest.approx((given == truth)[inside].mean())
        expected = scipy.stats.binomtest(int((given[inside] == 1).sum()), int(inside.sum())).proportion_ci(method="wilson")
        np.testing.assert_allclose([one.positive_rate.low, one.positive_rate.high], expected)
    parity, opportunity = found.differences
    assert (parity.name, opportunity.name) == ("demographic_parity_difference", "equal_opportunity_difference")
    assert parity.between == ("m", "f")
    for place, one in enumerate((parity, opportunity)):
        high, low = one.between
        assert one.value == pytest.approx(rates[high][place] - rates[low][place])
        assert one.value >= 0
    assert 0 < parity.low < parity.value < parity.high


def test_the_interval_is_the_bootstraps():
    group, truth, given = judged(rows=900, tilt=0.2)
    (parity, _), _ = fair(group, truth, given, positive="yes")[0].differences, None
    both = [(given[group == name] == 1).astype(float) for name in ("m", "f")]
    drawn = scipy.stats.bootstrap(
        both, lambda a, b, axis: a.mean(axis) - b.mean(axis), n_resamples=4000, method="percentile", rng=1
    )
    np.testing.assert_allclose([parity.low, parity.high], drawn.confidence_interval, atol=0.012)


def test_groups_that_are_alike_differ_by_nothing_in_nineteen_of_twenty():
    """200 sets of two groups that are treated alike: the interval holds 0 in at least 95 % less the binomial error."""
    held = 0
    for seed in range(200):
        group, truth, given = judged(rows=300, seed=seed)
        (parity, _) = fair(group, truth, given, positive="yes")[0].differences
        held += parity.low <= 0 <= parity.high
    assert held / 200 >= 0.95 - 2.33 * np.sqrt(0.95 * 0.05 / 200)


def test_of_many_groups_the_furthest_are_told_with_a_wider_interval():
    group, truth, given = judged(rows=2000, groups=("a", "b", "c", "d"), tilt=0.3)
    found, _ = fair(group, truth, given, positive="yes")
    rates = {name: (given[group == name] == 1).mean() for name in "abcd"}
    parity = found.differences[0]
    assert parity.between == (max(rates, key=rates.get), min(rates, key=rates.get))
    pair = np.isin(group, parity.between)
    alone, _ = fair(group[pair], truth[pair], given[pair], positive="yes")
    assert parity.value == pytest.approx(alone.differences[0].value)
    assert parity.high - parity.low > 1.2 * (alone.differences[0].high - alone.differences[0].low)


def test_without_a_declared_label_the_largest_difference_over_labels_counts():
    group, truth, given = judged(rows=1500, tilt=0.4, classes=3)
    found, _ = fair(group, truth, given, labels=("low", "mid", "top"))
    assert (found.positive, found.declared) == ("top", False)
    differences = {}
    for place, label in enumerate(("low", "mid", "top")):
        differences[label] = abs(np.subtract(*[(given[group == name] == place).mean() for name in ("f", "m")]))
    assert found.differences[0].label == max(differences, key=differences.get)
    assert found.differences[0].value == pytest.approx(max(differences.values()))
    declared, _ = fair(group, truth, given, labels=("low", "mid", "top"), positive="mid")
    assert declared.positive == declared.differences[0].label == "mid"
    assert declared.differences[0].value == pytest.approx(differences["mid"])


def test_small_groups_are_counted_and_said_to_be_too_small():
    group, truth, given = judged(rows=200)
    group = group.astype("<U5")
    group[:12] = "other"
    found, notes = fair(group, truth, given, positive="yes")
    small = next(one for one in found.groups if one.group == "other")
    assert (small.n, small.too_small) == (12, True)
    assert small.positive_rate.value == pytest.approx((given[:12] == 1).mean())
    assert notes == ["fairness: groups of fewer than 30 rows are too small to be held against others: 'other' (12)"]
    assert all("other" not in one.between for one in found.differences)


def test_missing_values_are_a_group():
    group, truth, given = judged()
    named = [None if row % 3 == 0 else name for row, name in enumerate(group)]
    found, _ = fair(named, truth, given, positive="yes")
    assert {one.group: one.n for one in found.groups}["(missing)"] == 200


def test_what_cannot_be_compared_is_undefined_and_said():
    group, truth, given = judged(rows=200)
    found, notes = fair(group, np.zeros(200, dtype=int), given, positive="yes")
    assert [one.name for one in found.differences] == ["demographic_parity_difference"]
    assert np.isnan(found.groups[0].true_positive_rate.value)
    assert notes == [
        "fairness: equal_opportunity_difference is undefined: it takes two groups of at least 30 rows, 10 of them truly positive"
    ]
    alone, notes = fair(["f"] * 200, truth, given, positive="yes")
    assert alone is None
    assert notes == ["fairness over 'sex' is left out: all judged rows are of one group"]


def test_a_group_that_is_never_given_the_label_has_an_interval_all_the_same():
    group = np.array(["f"] * 40 + ["m"] * 40)
    found, _ = fair(group, np.ones(80, dtype=int), np.array([0] * 40 + [1] * 40), positive="yes")
    parity = found.differences[0]
    assert parity.value == 1.0
    assert parity.low < 0.95


def test_labels_of_a_set_are_answers_each_by_itself():
    rng = np.random.default_rng(0)
    group, truth = rng.choice(["f", "m"], 400), (rng.random((400, 2)) < 0.5).astype(int)
    outputs = np.where(truth > 0, 0.8, 0.2)
    outputs[group == "m", 1] = 0.9
    options = JudgeOptions(fairness="sex", positive="b")
    column = described("sex", group.tolist(), asked=True)
    found, _ = fairness_of(kind_of("label-sets", ("a", "b")), truth, outputs, column, options, 0)
    rates = {one.group: one.positive_rate.value for one in found.groups}
    assert rates["m"] == 1.0
    assert rates["f"] == pytest.approx(truth[group == "f", 1].mean())
    right = ((outputs >= 0.5) == truth).all(axis=1)
    assert found.groups[0].accuracy.value == pytest.approx(right[group == found.groups[0].group].mean())


def test_numbers_are_no_labels():
    column = described("sex", ["f", "m"] * 50)
    numbers = np.arange(100.0)
    found, notes = fairness_of(kind_of("numbers"), numbers, numbers[:, None], column, JudgeOptions(fairness="sex"), 0)
    assert found is None
    assert notes == ["fairness over 'sex' is left out: these answers are no labels"]


def test_json_keeps_it():
    found, _ = fair(*judged(), positive="yes")
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert Fairness.from_json(told) == found
    assert set(told) == {"column", "positive", "declared", "groups", "differences"}
    assert set(told["groups"][0]) == {"group", "n", "too_small", "positive_rate", "true_positive_rate", "accuracy"}
    assert set(told["differences"][0]) == {"name", "label", "value", "low", "high", "between"}


def test_a_positive_label_that_is_not_there_is_refused():
    cls = TASKS.get("classification")
    task = cls(build(cls.Options, {}))
    task.learn(["ham", "spam"] * 5, Ledger())
    (problem,) = positive_problems(JudgeOptions(fairness="sex", positive="spom"), task)
    assert problem.what == "there is no label 'spom' that could be the positive answer"
    assert problem.fix == "did you mean 'spam'?"
    (problem,) = positive_problems(JudgeOptions(positive="spam"), task)
    assert problem.fix == "name the column of the groups too: --set judge.fairness=COLUMN"
    assert positive_problems(JudgeOptions(fairness="sex", positive="spam"), task) == []
    assert positive_problems(JudgeOptions(), task) == []
