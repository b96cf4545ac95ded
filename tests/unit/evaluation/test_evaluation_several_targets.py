"""What is judged of several targets: each by its own kind on the rows that have it, all of them by one relative loss."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as reference

from regraft.errors import OptionsError
from regraft.evaluation.answer_kind import kind_for
from regraft.evaluation.by_target import JudgedRows, climbed, constant_contender, own_options, reported
from regraft.evaluation.judge import metric_name, metrics_from_json, metrics_json
from regraft.evaluation.ladder import Contender
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.render import draw, plain
from regraft.evaluation.report import Report
from regraft.options import build
from regraft.tasks.multi_target import MultiTarget, MultiTargetOptions
from regraft.types import Ledger, Metric

OPTIONS = JudgeOptions(resamples=200)


def judged(seed: int = 0, n: int = 60) -> tuple[MultiTarget, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    values: list[dict[str, Any]] = []
    for row in range(n):
        kind, price = str(rng.choice(["a", "b"])), float(rng.normal(10, 3))
        values.append({"kind": kind if row % 4 else None, "price_eur": price if row % 3 else None, "tags": ["red"][: row % 2]})
    task = MultiTarget(
        build(MultiTargetOptions, {"targets": {"kind": "classification", "price_eur": "regression", "tags": "multi-label"}})
    )
    task.learn(values, Ledger())
    outputs = rng.normal(size=(n, task.widths[0]))
    return task, task.targets(values), task.probabilities(outputs)


def test_the_relative_loss_is_the_mean_of_those_of_the_targets():
    task, targets, outputs = judged()
    there = ~np.isnan(targets)
    kinds, prices = targets[there[:, 0], 0].astype(int), targets[there[:, 1], 1]
    shares = np.bincount(kinds) / len(kinds)
    of_kind = reference.log_loss(kinds, outputs[there[:, 0], :2]) / reference.log_loss(kinds, np.tile(shares, (len(kinds), 1)))
    of_price = reference.mean_absolute_error(prices, outputs[there[:, 1], 2]) / np.abs(prices - np.median(prices)).mean()
    tags, red = targets[:, 2], outputs[:, 3]
    share = tags.mean()
    of_tags = reference.log_loss(tags, red) / reference.log_loss(tags, np.full(len(tags), share))
    kind = kind_for(task)
    ((name, measure),) = kind.measures(task.metrics).items()
    assert name == "relative-loss"
    assert measure.value(targets, outputs) == pytest.approx(np.mean([of_kind, of_price, of_tags]), rel=1e-9)
    constant = np.tile(kind.constant(targets), (len(targets), 1))
    assert measure.value(targets, constant) == pytest.approx(1.0)
    assert kind.goodness(targets, constant) == pytest.approx(-1.0)
    weights = np.random.default_rng(1).integers(0, 3, size=(len(targets), 4))
    some = np.repeat(np.arange(len(targets)), weights[:, 2])
    # The constant stays that of the rows as they are: a resample must not move what all are held against.
    by_hand = [np.nanmean(column) for column in kind.relative(targets, outputs)[some].T]
    assert measure.values(targets, outputs, weights)[2] == pytest.approx(np.mean(by_hand))


def test_metrics_of_one_target_are_those_of_its_task_alone():
    task, targets, outputs = judged()
    measures = kind_for(task).measures(["kind.accuracy", "price_eur.rmse", "tags.micro-f1"])
    rows = np.flatnonzero(~np.isnan(targets[:, 0]))
    accuracy = reference.accuracy_score(targets[rows, 0], outputs[rows, :2].argmax(axis=1))
    assert measures["kind.accuracy"].value(targets, outputs) == pytest.approx(accuracy)
    rows = np.flatnonzero(~np.isnan(targets[:, 1]))
    rmse = reference.mean_squared_error(targets[rows, 1], outputs[rows, 2]) ** 0.5
    assert measures["price_eur.rmse"].value(targets, outputs) == pytest.approx(rmse)
    assert measures["price_eur.rmse"].higher_is_better is False
    nobody = np.where(np.arange(targets.shape[1]) == 1, np.nan, targets)
    assert np.isnan(measures["price_eur.rmse"].value(nobody, outputs))


@pytest.mark.parametrize("name", ["accuracy", "kind.rmse", "colour.accuracy", "kind.acuracy"])
def test_metrics_that_are_not_of_these_targets_are_refused(name):
    task, _, _ = judged()
    with pytest.raises(OptionsError) as caught:
        kind_for(task).measures([name])
    assert caught.value.problems[0].fix


def test_baselines_are_for_a_target_at_least():
    task, _, _ = judged()
    assert {"majority", "ridge-probe", "label-shares"} <= set(kind_for(task).rungs(None))
    with pytest.raises(OptionsError, match="'ridge-quantiles' is no baseline of any of the targets"):
        kind_for(task).rungs(["ridge-quantiles"])
    named = JudgeOptions(rungs=("majority", "mean"))
    assert [own_options(part, named).rungs for part in task.parts] == [("majority",), ("mean",), None]


def test_groups_are_told_apart_by_target():
    task, targets, _ = judged()
    groups = kind_for(task).groups(targets)
    lacks = np.isnan(targets[:, 0])
    assert not set(groups[lacks]) & set(groups[~lacks])
    assert len(kind_for(task).group_names(targets)) == len(targets)


def better_and_worse() -> tuple[MultiTarget, np.ndarray, np.ndarray]:
    """Outputs that are perfect for the classes and worse than any constant for the numbers."""
    task, targets, outputs = judged(n=120)
    kinds = np.nan_to_num(targets[:, :1])
    outputs[:, :2] = np.where(np.arange(2) == kinds, 0.99, 0.01)
    outputs[:, 2] = 1e3
    return task, targets, outputs


def report_of(task: MultiTarget, targets: np.ndarray, outputs: np.ndarray) -> Report:
    both = [constant_contender(task, targets), Contender(name="model", probabilities_NC=outputs)]
    rows = JudgedRows(targets=targets, outputs_NC=outputs)
    found = reported(task, rows, lambda part: climbed(part, both, targets, OPTIONS, 0), OPTIONS, 0)
    return Report(kind="evaluate", **found)


def test_each_target_has_its_verdict_and_the_whole_has_the_weakest():
    report = report_of(*better_and_worse())
    verdicts = {name: one.verdict for name, one in report.targets.items()}
    assert verdicts["kind"] == "better"
    assert verdicts["price_eur"] == "worse"
    assert report.verdict == "worse"
    assert [step.name for step in report.targets["price_eur"].ladder.steps] == ["median", "model"]
    assert [step.name for step in report.targets["kind"].ladder.steps] == ["majority", "model"]
    assert report.targets["kind"].judgement.n == 90
    assert report.judgement.metrics["kind.accuracy"].value == 1.0
    assert report.judgement.n == 120


def test_a_report_of_several_targets_survives_json_and_is_drawn():
    report = report_of(*better_and_worse())
    told = json.loads(json.dumps(report.to_json(), allow_nan=False))
    again = Report.from_json(told)
    assert again.to_json()["targets"] == told["targets"]
    assert again.to_json()["metrics"] == told["metrics"]
    assert "price_eur.mae" in told["metrics"]
    assert "kind.balanced_accuracy" in told["metrics"]
    assert "relative_loss" in told["metrics"]
    drawn = plain(draw(again), 100)
    assert drawn.index("target kind") < drawn.index("target price_eur") < drawn.index("all targets")


def test_a_target_that_no_row_has_is_left_out_and_said():
    task, targets, outputs = judged()
    targets[:, 1] = np.nan
    report = report_of(task, targets, outputs)
    assert set(report.targets) == {"kind", "tags"}
    assert "price_eur: no row has this target, it is not judged" in report.judgement.notes


def test_names_of_metrics_keep_the_name_of_the_target():
    metrics = {
        "due_date.macro-f1": Metric(0.5, 0.4, 0.6, 9),
        "a.b-c.mae": Metric(1.0, 0.5, 2.0, 9),
        "log-loss": Metric(1, 0, 2, 9),
    }
    told = metrics_json(metrics)
    assert list(told) == ["due_date.macro_f1", "a.b-c.mae", "log_loss"]
    assert metrics_from_json(told) == metrics
    assert metric_name("a.b-c.rank_mae") == ("a.b-c", "rank-mae")


def test_models_are_compared_over_all_targets():
    task, targets, outputs = judged(n=120)
    kind = kind_for(task)
    good = outputs.copy()
    good[:, :2] = np.where(np.arange(2) == np.nan_to_num(targets[:, :1]), 0.9, 0.1)
    good[:, 2] = np.nan_to_num(targets[:, 1])
    found = kind.compare(targets, (outputs, good), ("old", "new"), options=OPTIONS)
    assert found.verdict == "better"
    ((_, measure),) = kind.measures(task.metrics).items()
    assert found.difference.value == pytest.approx(measure.value(targets, good) - measure.value(targets, outputs))
