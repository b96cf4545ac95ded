"""Ordinal: order, likelihood, median rank, metrics and comparison, against closed forms and scikit-learn."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from regraft.errors import DataError, OptionsError
from regraft.evaluation import METRICS, RUNGS
from regraft.evaluation.answer_kind import fitting_names, kind_of
from regraft.evaluation.judge import judge
from regraft.evaluation.ladder import Contender, LadderRows, build_ladder
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.rung import Rows
from regraft.tasks.decisions import decide_rank
from regraft.tasks.ordinal import Ordinal, OrdinalOptions
from regraft.types import Ledger, Prediction

GRADES = ("poor", "fair", "good", "great")
VALUES = ["good", "poor", "fair", "great", "poor", "good"]
QUICK = JudgeOptions(resamples=300)


def learnt(values=VALUES, order=GRADES, ledger=None):
    task = Ordinal(OrdinalOptions(order=order))
    task.learn(values, ledger or Ledger())
    return task


def refused(error, *arguments):
    with pytest.raises(error) as caught:
        learnt(*arguments)
    return str(caught.value)


def test_labels_stand_in_the_order_that_was_given_or_in_that_of_numbers():
    task = learnt()
    assert task.names == GRADES
    assert task.counts == (2, 1, 2, 1)
    assert task.targets(VALUES).tolist() == [2, 0, 1, 3, 0, 2]
    assert learnt([10, 9, 2, 9, 10], ()).labels == (2, 9, 10)
    again = Ordinal.restore(task.options, json.loads(json.dumps(task.state())))
    assert (again.labels, again.counts) == (task.labels, task.counts)


def test_a_rank_without_training_rows_is_kept_and_counted():
    ledger = Ledger()
    task = learnt([1, 2, 4, 4, 1], ("1", "2", "3", "4"), ledger)
    assert task.labels == (1, 2, 3, 4)
    assert task.counts == (2, 1, 0, 2)
    assert ledger.counts["ranks without a training row"] == 1
    assert task.targets([3]).tolist() == [2]


def test_probabilities_are_products_of_conditional_chances_and_the_loss_is_their_likelihood():
    task = learnt()
    output = 3 * np.random.default_rng(0).normal(size=(6, 3))
    go = 1 / (1 + np.exp(-output))
    expected = np.stack(
        [1 - go[:, 0], go[:, 0] * (1 - go[:, 1]), go[:, 0] * go[:, 1] * (1 - go[:, 2]), go.prod(axis=1)], axis=1
    )
    found = task.probabilities(output)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-14)
    targets = task.targets(VALUES)
    loss = task.loss(torch.from_numpy(output), torch.from_numpy(targets))
    assert float(loss.total) == pytest.approx(-np.log(expected[np.arange(6), targets]).sum(), rel=1e-12)
    assert float(loss.weight) == 6.0
    extreme = task.probabilities(np.array([[800.0, -800.0, 0.0], [-800.0, 0.0, 0.0]]))
    np.testing.assert_array_equal(extreme, [[0, 1, 0, 0], [1, 0, 0, 0]])


def test_the_answer_is_the_median_rank():
    shares = np.array([[0.4, 0.05, 0.15, 0.4], [0.6, 0.1, 0.1, 0.2], [0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.0, 1.0]])
    assert decide_rank(shares).tolist() == [2, 0, 2, 3]
    costs = np.abs(np.arange(4)[:, None] - np.arange(4))
    for row, rank in zip(shares, decide_rank(shares), strict=True):
        assert (row @ costs)[rank] == pytest.approx((row @ costs).min()), "no other answer is nearer on average"
    task = learnt()
    output = 2 * np.random.default_rng(1).normal(size=(40, 3))
    ranks = decide_rank(task.probabilities(output))
    assert [p.value for p in task.decode(output)] == [GRADES[rank] for rank in ranks]
    odd = task.decode(np.array([[np.nan, 0, 0], [0, 0, 0], [np.inf, 0, 0]]))
    assert [answer.value is None for answer in odd] == [True, False, True]


def ranked(rows=120, seed=0):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 4, rows)
    logits = -np.square(np.arange(4) - targets[:, None] - rng.normal(scale=0.8, size=(rows, 1)))
    raised = np.exp(logits)
    return targets, raised / raised.sum(axis=1, keepdims=True)


def test_metrics_equal_those_of_scikit_learn_under_every_weighting():
    targets, probabilities = ranked()
    given = decide_rank(probabilities)
    weights = np.random.default_rng(2).integers(0, 4, size=(120, 3))
    expected = {
        "rank-mae": lambda rows: np.abs(given[rows] - targets[rows]).mean(),
        "quadratic-kappa": lambda rows: reference.cohen_kappa_score(targets[rows], given[rows], weights="quadratic"),
        "accuracy": lambda rows: (given[rows] == targets[rows]).mean(),
        "macro-f1": lambda rows: reference.f1_score(targets[rows], given[rows], average="macro"),
    }
    for name, by_hand in expected.items():
        measure = kind_of("ranks", GRADES).measures([name])[name]
        assert measure.value(targets, probabilities) == pytest.approx(by_hand(np.arange(120)), rel=1e-12)
        for found, column in zip(measure.values(targets, probabilities, weights), weights.T, strict=True):
            assert found == pytest.approx(by_hand(np.repeat(np.arange(120), column)), rel=1e-9)


def test_the_judgement_counts_what_is_answered_and_not_the_most_probable_rank():
    targets, probabilities = ranked()
    found = judge(fitting_names(METRICS, "ranks"), targets, probabilities, GRADES, answers="ranks", options=QUICK)
    np.testing.assert_array_equal(
        found.confusion.matrix(), reference.confusion_matrix(targets, decide_rank(probabilities), labels=range(4))
    )
    assert found.metrics["accuracy"].value == found.confusion.matrix().trace() / 120
    for name in ("rank-mae", "quadratic-kappa"):
        assert found.metrics[name].low < found.metrics[name].value < found.metrics[name].high
    one = judge(["quadratic-kappa"], np.zeros(5, int), np.eye(4)[np.zeros(5, int)], GRADES, answers="ranks", options=QUICK)
    assert math.isnan(one.metrics["quadratic-kappa"].value)
    assert one.notes == ("quadratic_kappa is undefined on these rows",)


def test_the_ladder_is_climbed_by_distances_in_ranks():
    targets, probabilities = ranked(200)
    features = np.stack([targets + np.random.default_rng(0).normal(size=200), np.ones(200)], axis=1).astype(np.float32)
    rows = Rows(features, targets)
    table = LadderRows(train=rows, valid=rows, test=rows, labels=GRADES, answers="ranks")
    ladder = build_ladder(
        table, Contender(name="fitted", probabilities_NC=probabilities), ["rank-mae", "accuracy"], options=QUICK
    )
    assert [step.name for step in ladder.steps][:-1] == fitting_names(RUNGS, "ranks")
    against = ladder.steps[-1].against_previous
    assert against.quantity == "rank-mae"
    gained = ladder.steps[-1].metrics["rank-mae"].value - ladder.steps[-2].metrics["rank-mae"].value
    assert against.difference.value == pytest.approx(gained)


def test_what_has_no_order_says_what_to_do():
    text = refused(OptionsError, VALUES, ())
    assert "the labels are texts, whose order is not known" in text
    assert "--set 'task.order=[fair,good,great,poor]' with the lowest first" in text.replace(", ", ",")
    text = refused(OptionsError, [*VALUES, "god"], GRADES)
    assert "training rows have labels that the order leaves out" in text
    assert "did you mean 'good'?" in text
    assert "'fair' stands twice" in refused(OptionsError, VALUES, (*GRADES, "fair"))
    assert "the labels are whole numbers, and the order has others" in refused(OptionsError, [1, 2, 1], ("1", "2", "many"))
    assert "fewer than two classes" in refused(DataError, ["good", "good"])
    assert "cannot be labels" in refused(DataError, [1.5, 2.5, 1.5])
    task = learnt()
    assert task.target_problem("goood") == "there is no rank 'goood'; did you mean 'good'?"
    assert "is of type int; the ranks are of type str, such as 'poor'" in task.target_problem(3)


def test_answers_agree_unless_the_median_was_on_the_edge():
    task = learnt()

    def answer(value, *shares):
        return Prediction(value=value, probabilities=dict(zip(GRADES, shares, strict=True)))

    edge, clear = answer("poor", 0.500001, 0.3, 0.1, 0.099999), answer("poor", 0.6, 0.2, 0.1, 0.1)
    other = answer("fair", 0.499999, 0.3, 0.1, 0.100001)
    assert task.same_answer(edge, other, 1e-5)
    assert not task.same_answer(edge, other, 1e-7)
    assert not task.same_answer(clear, other, 1e-5)
    assert (task.cost("poor", "great"), task.cost("good", "good")) == (3.0, 0.0)
    assert math.isnan(task.cost("none", "good"))
