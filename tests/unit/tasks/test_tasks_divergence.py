"""Divergences of two outputs against what scipy makes of the probabilities; smoothed labels against torch's loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import rel_entr

from regraft.options import Pick, build
from regraft.tasks import TASKS
from regraft.types import Ledger

TARGETS = {
    "classification": (["a", "b", "c", "a"], {"class_weights": {"a": 3.0}}),
    "multi-label": ([["a"], ["a", "b"], [], ["c"]], {}),
    "ordinal": ([1, 2, 3, 4, 4, 1], {}),
    "regression": ([1.0, 2.0, 5.0, 3.0], {}),
    "quantiles": ([1.0, 2.0, 5.0, 3.0], {"quantiles": [0.1, 0.9]}),
}


def task_of(name):
    values, chosen = TARGETS[name]
    cls, options = Pick({"quantiles": "regression"}.get(name, name), chosen).resolve(TASKS)
    task = cls(options)
    task.learn(values, Ledger())
    return task


def two_outputs(task, seed=0):
    rng = np.random.default_rng(seed)
    return [torch.tensor(3 * rng.normal(size=(6, task.widths[0])), requires_grad=True) for _ in range(2)]


def reference(name, task, one, other):
    p, q = (task.probabilities(output.detach().numpy()) for output in (one, other))
    if name in {"classification", "ordinal"}:
        return rel_entr(p, q).sum(axis=1)
    if name == "multi-label":
        return (rel_entr(p, q) + rel_entr(1 - p, 1 - q)).mean(axis=1)
    return (((p - q) / task.scale) ** 2).mean(axis=1)


@pytest.mark.parametrize("name", TARGETS)
def test_divergences_are_those_of_what_is_answered(name):
    task = task_of(name)
    one, other = two_outputs(task)
    found = task.divergence(one, other)
    np.testing.assert_allclose(found.detach().numpy(), reference(name, task, one, other), rtol=1e-9, atol=1e-12)
    assert (found > 0).all()
    assert torch.equal(task.divergence(one, one), torch.zeros_like(found))
    found.sum().backward()
    assert torch.isfinite(one.grad).all()
    assert torch.isfinite(other.grad).all()


@pytest.mark.parametrize("name", ["classification", "multi-label", "ordinal"])
def test_divergences_of_very_sure_answers_are_finite(name):
    task = task_of(name)
    one = torch.full((2, task.widths[0]), 200.0)
    one[:, 1:] = -200.0
    assert torch.isfinite(task.divergence(one, -one)).all()
    assert torch.isfinite(task.divergence(one, one)).all()


def test_the_divergence_of_several_targets_is_the_weighted_sum():
    chosen = {
        "targets": {"kind": "classification", "cost": "regression", "off": "regression"},
        "weights": {"cost": 0.5, "off": 0},
    }
    cls, options = Pick("multi-target", chosen).resolve(TASKS)
    task = cls(options)
    task.learn([{"kind": k, "cost": c, "off": c} for k, c in (("a", 1.0), ("b", 2.0), ("a", 4.0))], Ledger())
    one, other = two_outputs(task)
    kind, cost = task.tasks["kind"], task.tasks["cost"]
    expected = kind.divergence(one[:, :2], other[:, :2]) + 0.5 * cost.divergence(one[:, 2:3], other[:, 2:3])
    torch.testing.assert_close(task.divergence(one, other), expected)


@pytest.mark.parametrize("name", TARGETS)
def test_weights_of_rows_add_up_to_that_of_all(name):
    task = task_of(name)
    targets = task.targets(TARGETS[name][0])
    assert task.row_weights(targets).sum() == pytest.approx(task.weight(targets))
    if name == "classification":
        assert task.row_weights(targets).tolist() == [3.0, 1.0, 1.0, 3.0]


def test_labels_are_smoothed_over_yes_and_no():
    cls = TASKS.get("multi-label")
    task = cls(build(cls.Options, {"label_smoothing": 0.2, "class_weights": {"a": 2.0}}))
    task.learn([["a"], ["b"], ["a", "b"]], Ledger())
    output = torch.tensor([[0.3, -1.0], [2.0, 0.5]])
    found = task.loss(output, torch.tensor([[1, 0], [0, 1]]))
    soft = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    weights = torch.tensor([2.0, 1.0])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(output, soft, pos_weight=weights, reduction="none")
    assert float(found.total) == pytest.approx(float(expected.mean(dim=1).sum()), abs=1e-6)
    plain = cls(build(cls.Options, {"class_weights": {"a": 2.0}}))
    plain.learn([["a"], ["b"], ["a", "b"]], Ledger())
    assert float(plain.loss(output, torch.tensor([[1, 0], [0, 1]])).total) != pytest.approx(float(found.total), abs=1e-3)
