"""Several targets at once: what each row teaches, how losses are weighed, and what is said where it cannot be done."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch

from regraft.errors import DataError, OptionsError, RegraftError
from regraft.options import build, to_json
from regraft.recipe import with_recipe
from regraft.tasks import TASKS
from regraft.tasks.multi_target import MultiTarget, MultiTargetOptions
from regraft.types import Features, Ledger
from regraft.verbs import FitOptions

TASKS_OF = {
    "kind": "classification",
    "price": "regression",
    "tags": "multi-label",
    "stars": {"name": "ordinal", "order": ["poor", "fair", "good"]},
}
WIDTH = 5


def rows(n: int = 40, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "kind": str(rng.choice(["a", "b", "b", "c"])),
            "price": float(np.round(rng.normal(100, 20), 2)),
            "tags": [tag for tag in ("red", "big") if rng.random() < 0.5],
            "stars": str(rng.choice(["poor", "fair", "good"])),
        }
        for _ in range(n)
    ]


def learnt(values: list[dict[str, Any]], targets: dict[str, Any] | None = None, **options: Any) -> MultiTarget:
    task = MultiTarget(build(MultiTargetOptions, {"targets": targets or TASKS_OF, **options}))
    task.learn(values, Ledger())
    return task


def features(n: int, seed: int = 0) -> Features:
    x_BD = torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Features(sequence_BTD=x_BD[:, None], mask_BT=torch.ones(n, 1, dtype=torch.bool), pooled_BD=x_BD.requires_grad_())


def gradient(loss: Any, x_BD: torch.Tensor) -> torch.Tensor:
    (found,) = torch.autograd.grad(loss.total / loss.weight, x_BD)
    return found


def lacking(values: list[dict[str, Any]], every: dict[str, int]) -> list[dict[str, Any]]:
    """Rows that lack a target, each target in every so many rows; none lacks all of them."""
    made = [{name: None if row % every[name] == 1 else value[name] for name in value} for row, value in enumerate(values)]
    return [row if any(row.values()) else {**row, "kind": whole["kind"]} for row, whole in zip(made, values, strict=True)]


def test_the_joint_gradient_is_the_weighted_sum_of_those_of_the_tasks_alone():
    values, weights = rows(), {"kind": 0.3, "price": 2.0, "tags": 1.0, "stars": 0.7}
    task, given = learnt(values, weights=weights), features(40)
    head = task.head(WIDTH, 0.0, seed=1).double()
    joint = gradient(task.loss(head(given), torch.from_numpy(task.targets(values))), given.pooled_BD)
    expected = torch.zeros_like(joint)
    for part, own in zip(task.parts, head.heads, strict=True):
        alone = TASKS.get(part.task.name).restore(part.task.options, part.task.state())
        targets = torch.from_numpy(alone.targets([value[part.name] for value in values]))
        expected += weights[part.name] * gradient(alone.loss(own(given), targets), given.pooled_BD)
    torch.testing.assert_close(joint, expected, rtol=1e-12, atol=1e-14)


def test_a_row_without_a_target_teaches_its_head_nothing_and_the_mean_is_over_the_rows_that_have_it():
    whole = rows()
    values = lacking(whole, {"kind": 3, "price": 4, "tags": 5, "stars": 2})
    task, given = learnt(values), features(40)
    head = task.head(WIDTH, 0.0, seed=1).double()
    output = head(given)
    output.retain_grad()
    loss = task.loss(output, torch.from_numpy(task.targets(values)))
    (loss.total / loss.weight).backward()
    for part in task.parts:
        there = [row for row, value in enumerate(values) if value[part.name] is not None]
        lacks = [row for row in range(40) if row not in there]
        assert lacks
        assert (output.grad[lacks][:, part.outputs] == 0).all()
        targets = torch.from_numpy(part.task.targets([values[row][part.name] for row in there]))
        own = output.detach()[there][:, part.outputs].requires_grad_()
        alone = part.task.loss(own, targets)
        (alone.total / len(there)).backward()
        torch.testing.assert_close(output.grad[there][:, part.outputs], own.grad, rtol=1e-12, atol=1e-15)


def test_parts_of_an_update_add_up_whatever_labels_each_holds():
    values = lacking(rows(), {"kind": 3, "price": 2, "tags": 40, "stars": 7})
    classes = {"name": "classification", "class_weights": {"a": 3.0}}
    task = learnt(values, {**TASKS_OF, "kind": classes})
    output = torch.randn(40, task.widths[0], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.from_numpy(task.targets(values))
    whole, scales = task.loss(output, targets), task.scales(targets.numpy())
    cuts = [slice(0, 1), slice(1, 2), slice(2, 25), slice(25, 40)]
    parts = [task.scaled_loss(output[cut], targets[cut], scales) for cut in cuts]
    assert float(sum(part.total for part in parts)) == pytest.approx(float(whole.total), rel=1e-12)
    assert float(sum(part.weight for part in parts)) == float(whole.weight) == 40
    kind = task.parts[0]
    there = kind.rows(targets.numpy())
    alone = kind.task.loss(output[there][:, kind.outputs], torch.from_numpy(kind.own(targets.numpy())))
    assert float(alone.weight) > len(there), "one class weighs 3"
    assert scales[0] == pytest.approx(40 / float(alone.weight))


def test_learnt_weights_are_those_of_the_paper():
    """Kendall, Gal & Cipolla 2018, eq. 7 and 10, written out in numpy; at the best s, f exp(-s) L is one half."""
    values = rows()
    targets = {name: TASKS_OF[name] for name in ("kind", "price")}
    task = learnt(values, targets, weighting="uncertainty", weights={"price": 0.5})
    plain = learnt(values, targets)
    head = task.head(WIDTH, 0.0, seed=1).double()
    with torch.no_grad():
        head.log_variances_K.copy_(torch.tensor([0.4, -0.9], dtype=torch.float64))
    given, s_K = features(40), np.array([0.4, -0.9])
    wanted = torch.from_numpy(task.targets(values))
    assert head.eval()(given).shape == (40, 4), "outside training only the outputs"
    output = head.train()(given)
    assert output.shape == (40, 6)
    losses = []
    for part in plain.parts:
        loss = part.task.loss(output[:, part.outputs], torch.from_numpy(part.own(wanted.numpy())))
        losses.append(float(loss.total.detach()) / 40)
    found = task.loss(output, wanted)
    terms_K = np.array([1.0, 0.5]) * np.exp(-s_K) * losses + s_K / 2
    assert float((found.total / found.weight).detach()) == pytest.approx(terms_K @ [1.0, 0.5], rel=1e-12)
    (slope_K,) = torch.autograd.grad(found.total / found.weight, head.log_variances_K)
    expected_K = np.array([1.0, 0.5]) * (-np.array([1.0, 0.5]) * np.exp(-s_K) * losses + 0.5)
    np.testing.assert_allclose(slope_K.numpy(), expected_K, rtol=1e-12)


def test_learnt_weights_are_weights_of_the_head_and_what_is_fixed_has_none():
    values = rows()
    assert "log_variances_K" in dict(learnt(values, weighting="uncertainty").head(WIDTH, 0.0).named_parameters())
    assert "log_variances_K" not in dict(learnt(values).head(WIDTH, 0.0).named_parameters())


def test_the_first_head_is_that_of_its_task_alone_and_a_head_of_weight_0_does_not_learn():
    values = rows()
    task = learnt(values, weights={"price": 0.0, "tags": 0.0, "stars": 0.0})
    head = task.head(WIDTH, 0.0, seed=3)
    alone = task.parts[0].task.head(WIDTH, 0.0, seed=3)
    assert torch.equal(head.heads[0].linear.weight, alone.linear.weight)
    x = torch.randn(40, WIDTH)
    given = Features(sequence_BTD=x[:, None], mask_BT=torch.ones(40, 1, dtype=torch.bool), pooled_BD=x)
    loss = task.loss(head(given), torch.from_numpy(task.targets(values)))
    loss.total.backward()
    own = task.parts[0].task.loss(alone(given), torch.from_numpy(task.parts[0].own(task.targets(values))))
    own.total.backward()
    assert torch.equal(head.heads[0].linear.weight.grad, alone.linear.weight.grad)
    assert torch.equal(loss.total, own.total)
    assert torch.equal(loss.weight, own.weight)
    assert all(not other.linear.weight.grad.any() for other in list(head.heads)[1:])


def test_an_update_in_which_no_row_has_a_target_leaves_it_out():
    values = rows()
    task = learnt(values, weighting="uncertainty")
    some = [{**value, "price": None} for value in values[:8]]
    head = task.head(WIDTH, 0.0, seed=3).double().train()
    loss = task.loss(head(features(8)), torch.from_numpy(task.targets(some)))
    loss.total.backward()
    assert head.log_variances_K.grad[1] == 0
    assert head.log_variances_K.grad[0] != 0
    assert torch.isfinite(loss.total)


def test_answers_are_told_by_target():
    values = rows()
    price = {"name": "regression", "quantiles": [0.1, 0.9]}
    task = learnt(values, {"kind": "classification", "price": price})
    (answer,) = task.decode(np.array([[0.0, 2.0, 0.0, -1.0, 1.0, 1.0]]))
    assert answer.value["kind"] == "b"
    told = json.loads(json.dumps(answer.to_json()))
    assert set(told) == {"prediction", "probabilities", "quantiles"}
    assert list(told["probabilities"]["kind"]) == ["a", "b", "c"]
    assert list(told["quantiles"]["price"]) == ["0.1", "0.5", "0.9"]
    assert told["prediction"]["price"] == told["quantiles"]["price"]["0.5"]
    assert tuple(answer.numbers) == task.answer_columns
    assert task.answer_columns[0] == "probability.kind.a"
    assert task.answer_columns[-1] == "quantile.price.0.9"
    kept = dataclasses.replace(answer, parts={}, quantiles={})  # as golden rows and gates keep it
    assert task.same_answer(kept, kept, 0.0)
    moved = dataclasses.replace(kept, value={**kept.value, "price": kept.value["price"] + 1.0})
    assert not task.same_answer(kept, moved, 1e-5)
    other = dataclasses.replace(kept, value={**kept.value, "kind": "a"})
    assert not task.same_answer(kept, other, 1e-5)
    broken = task.decode(np.array([[0.0, 2.0, 0.0, np.nan, 1.0, 1.0]]))[0]
    assert broken.value is None
    assert broken.error == "price: the network's output for this row is not a finite number"


def test_the_order_of_the_targets_survives_where_keys_are_sorted():
    values, order = rows(), ["tags", "stars", "price", "kind"]
    task = learnt(values, {name: TASKS_OF[name] for name in order})
    said = json.loads(json.dumps({"options": to_json(task.options), "state": task.state()}, sort_keys=True))
    again = MultiTarget.restore(build(MultiTargetOptions, said["options"]), said["state"])
    assert list(again.columns) == order
    assert again.names == task.names
    np.testing.assert_array_equal(again.targets(values), task.targets(values))
    said["state"]["targets"].pop()
    with pytest.raises(ValueError, match="states of tags, stars, price are not those of the targets"):
        MultiTarget.restore(build(MultiTargetOptions, said["options"]), said["state"])


def test_costs_are_means_over_the_targets_that_are_known():
    task = learnt(rows(), {"kind": "classification", "price": "regression"})
    assert task.cost({"kind": "a", "price": 100.0}, {"kind": "b", "price": 103.0}) == pytest.approx((1 + 3) / 2)
    assert task.cost({"kind": None, "price": 100.0}, {"kind": "b", "price": 103.0}) == pytest.approx(3)
    assert np.isnan(task.cost(None, {"kind": "b", "price": 103.0}))


def test_the_ledger_names_the_target():
    values = [*rows(), {"kind": "rare", "price": 1.0, "tags": ["red"], "stars": "good"}]
    task = MultiTarget(build(MultiTargetOptions, {"targets": TASKS_OF}))
    ledger = Ledger()
    task.learn(values, ledger)
    assert ledger.counts["kind: classes with a single training row"] == 1


def problems(caught: Any) -> str:
    error: RegraftError = caught.value
    assert all(problem.fix for problem in error.problems)
    return str(error)


def test_what_cannot_be_learnt_is_said_of_every_target_at_once():
    values = [{"kind": "a", "price": "many", "tags": None, "stars": "poor"} for _ in range(10)]
    with pytest.raises(DataError) as caught:
        learnt(values)
    text = problems(caught)
    assert "no training row has the target 'tags'" in text
    assert "leave out --target tags" in text
    assert "where: column 'price'" in text
    assert "names of classes are for --target price=classification" in text
    assert "where: column 'kind'" in text
    assert "fewer than two classes" in text


def test_options_of_a_target_are_addressed_by_it():
    values = [{"stars": name, "price": float(place)} for place, name in enumerate(["bad", "good"] * 5)]
    with pytest.raises(OptionsError) as caught:
        learnt(values, {"stars": "ordinal", "price": "regression"})
    assert "--set 'task.targets.stars.order=[bad, good]'" in problems(caught)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": {"colour": 1.0}}, "there is a weight for 'colour', which is no target"),
        ({"weights": dict.fromkeys(TASKS_OF, 0.0)}, "all targets have the weight 0"),
        ({"targets": {"a": "multi-target", "b": "regression"}}, "the target 'a' cannot have several targets itself"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, said):
    with pytest.raises(OptionsError, match=said):
        MultiTarget(build(MultiTargetOptions, {"targets": TASKS_OF, **options}))


def test_fewer_than_two_targets_are_refused():
    with pytest.raises(OptionsError, match="this task is for several targets"):
        learnt(rows(), {"kind": "classification"})


def fit_options(**given: Any) -> FitOptions:
    return build(FitOptions, {"out": "x", **given})


SAME = [
    {"target": ["kind=classification", "price=regression"]},
    {"target": {"kind": "classification", "price": "regression"}},
    {"target": ["kind", "price=regression"]},
    {"target": {"kind": "", "price": "regression"}},
    {"target": ["kind", "price=regression"], "task": "classification"},
    {"target": ["kind", "price"], "task": {"targets": {"price": "regression"}}},
    {"task": {"name": "multi-target", "targets": {"kind": "classification", "price": "regression"}}},
    {"target": ["kind=text-classification", "price=regression"]},
]


@pytest.mark.parametrize("given", SAME)
def test_all_ways_of_saying_it_mean_the_same(given):
    wanted = fit_options(**given)
    assert wanted.target == {"kind": "classification", "price": "regression"}
    assert wanted == fit_options(**SAME[0])
    assert build(FitOptions, json.loads(json.dumps(to_json(wanted)))) == wanted
    assert wanted.targets == ("kind", "price")


def test_options_beside_the_targets_reach_them():
    price = {"targets": {"price": {"loss": "huber"}}, "weights": {"price": 0.5}, "weighting": "uncertainty"}
    wanted = fit_options(target=["kind", "price=regression"], task=price)
    assert wanted.task.options["targets"]["price"] == {"name": "regression", "loss": "huber"}
    assert wanted.task.options["weights"] == {"price": 0.5}
    both = fit_options(target=["width", "height"], task={"name": "regression", "loss": "absolute"})
    assert {pick["loss"] for pick in both.task.options["targets"].values()} == {"absolute"}


@pytest.mark.parametrize(
    ("given", "target"),
    [
        ({}, {"kind": "classification", "price": "regression"}),
        ({"target": "kind"}, "kind"),
        ({"target": ["kind", "size=regression"]}, {"kind": "classification", "size": "regression"}),
        ({"target": {"size": "regression", "kind": "ordinal"}}, {"size": "regression", "kind": "ordinal"}),
    ],
)
def test_what_is_given_beside_a_recipe_takes_the_place_of_all_its_targets(given, target, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("data: things.csv\ntarget: {kind: classification, price: regression}\n")
    _, options, _ = with_recipe(path, None, {"out": "x", **given})
    assert build(FitOptions, options).target == target


def test_a_recipe_of_one_target_can_be_given_several_and_options_for_them(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("target: kind\ntask: {weights: {price: 0.5}, weighting: uncertainty, targets: {price: {loss: huber}}}\n")
    with pytest.raises(OptionsError, match="there is no option 'weights'"):
        with_recipe(path, "x.csv", {"out": "x"})
    path.write_text("target: kind\n")
    _, options, _ = with_recipe(path, "x.csv", {"out": "x", "target": {"kind": "classification", "price": "regression"}})
    assert build(FitOptions, options).targets == ("kind", "price")


def test_one_target_stays_what_it_was():
    assert fit_options(target="kind").target == "kind"
    assert fit_options(target="a=b").target == "a=b", "a column may be called so"
    one = fit_options(target="price=regression", task={"loss": "huber"})
    assert (one.target, one.task.name, one.task.options) == ("price", "regression", {"loss": "huber"})
    assert fit_options(target=["price=regression"]) == fit_options(target="price", task="regression")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"target": ["kind", "price=regression", "kind=regression"]}, "the target 'kind' is named twice"),
        ({"target": ["kind=clasification", "price"]}, "there is no 'clasification' among the tasks"),
        ({"target": {"kind": "sorting", "price": "regression"}}, "there is no 'sorting' among the tasks"),
        ({"target": ["kind=classification", "price=regression"], "task": "ordinal"}, "every target has a task of its own"),
        ({"target": "price=regression", "task": "ordinal"}, "the target 'price' has two tasks"),
        ({"target": ["a", "b=regression"], "task": {"targets": {"b": "ordinal"}}}, "the target 'b' has two tasks"),
        ({"target": ["a", "b"], "task": {"targets": {"c": "ordinal"}}}, "there are options for 'c', which is no target"),
        ({"target": ["a", "b"], "task": {"weighting": "gradients"}}, "static"),
        ({"target": ["a", "b"], "task": {"targets": {"b": {"separater": ";"}}}}, "there is no option 'separater'"),
    ],
)
def test_what_contradicts_itself_is_refused_before_anything_is_read(given, said):
    with pytest.raises(OptionsError, match=said) as caught:
        fit_options(**given)
    problems(caught)
