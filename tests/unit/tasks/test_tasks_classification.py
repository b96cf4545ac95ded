"""Classification against torch's own loss, scipy's softmax and the rules for labels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch.nn import functional

from regraft.errors import DataError, OptionsError
from regraft.options import Pick, build, to_json
from regraft.tasks import TASKS
from regraft.tasks.classification import Classification, ClassificationOptions
from regraft.types import Ledger


def learnt(values, **options) -> Classification:
    task = Classification(build(ClassificationOptions, options))
    task.learn(values, Ledger())
    return task


@pytest.mark.parametrize(
    ("values", "labels", "names"),
    [
        (["b", "a", "b", "Z", "ä"], ("Z", "a", "b", "ä"), ("Z", "a", "b", "ä")),
        ([10, 9, 9, -1], (-1, 9, 10), ("-1", "9", "10")),
        ([True, False, True], (False, True), ("false", "true")),
        (["10", "9", "9"], ("10", "9"), ("10", "9")),
        (list(np.array([2, 1, 1])), (1, 2), ("1", "2")),
    ],
)
def test_labels_stand_in_order_and_keep_their_types(values, labels, names):
    task = learnt(values)
    assert task.labels == labels
    assert [type(label) for label in task.labels] == [type(label) for label in labels]
    assert task.names == names


@pytest.mark.parametrize("values", [["b", "a", "b"], [3, 1, 3], [True, False, True]])
@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_state_survives_json_with_its_types(values, weights):
    task = learnt(values, class_weights=weights)
    state = json.loads(json.dumps(task.state()))
    again = Classification.restore(task.options, state)
    assert again.state() == task.state()
    assert [type(label) for label in again.labels] == [type(label) for label in task.labels]
    assert again.targets(values).tolist() == task.targets(values).tolist()
    logits = np.random.default_rng(0).normal(size=(4, 2))
    assert again.decode(logits) == task.decode(logits)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (["a", "a"], ["fewer than two classes", "2 rows, all with the label 'a'", "choose another target"]),
        ([], ["fewer than two classes", "no rows"]),
        (["a", 1, "b", 2], ["more than one type", "2 strings (such as 'a')", "2 integers (such as 1)", "same form"]),
        ([True, 1, 0], ["more than one type", "1 booleans (such as True)", "2 integers (such as 1)"]),
        ([0.5, 1.5, 0.5], ["cannot be labels", "amounts to be estimated", "3 float (such as 0.5)"]),
        (["a", None, "a"], ["cannot be labels", "1 NoneType (such as None)"]),
        (["a", ["b"], "a"], ["cannot be labels", "1 list"]),
        ([f"id{i}" for i in range(5)], ["every row has a label of its own", "5 labels on 5 rows", "identifier"]),
        (list(range(10_001)) * 2, ["more than 10,000 classes", "10,001 labels on 20,002 rows"]),
    ],
)
def test_values_that_cannot_be_labels_are_refused(values, texts):
    with pytest.raises(DataError) as caught:
        learnt(values)
    for text in texts:
        assert text in str(caught.value)


def test_what_is_odd_but_bearable_is_counted():
    ledger = Ledger()
    Classification(ClassificationOptions()).learn(["spam", "ham", "ham", "Spam "], ledger)
    assert ledger.counts == {"classes with a single training row": 2, "labels that differ only in case or spaces": 1}
    assert ledger.examples["classes with a single training row"] == ["label 'Spam '", "label 'spam'"]
    assert ledger.examples["labels that differ only in case or spaces"] == ["'Spam ' and 'spam'"]


def test_target_problems_name_what_is_near():
    text, number, truth = learnt(["ham", "spam", "ham"]), learnt([1, 2, 1]), learnt([True, False, True])
    assert text.target_problem("spam") == ""
    assert text.target_problem("spma") == "the training rows have no label 'spma'; did you mean 'spam'?"
    assert text.target_problem(1) == "1 is of type int; the labels are of type str, such as 'ham'"
    assert text.target_problem(None).startswith("None is of type NoneType")
    assert text.target_problem(["spam"]).startswith("['spam'] is of type list")
    assert number.target_problem(np.int64(2)) == ""
    assert number.target_problem(True).startswith("True is of type bool")
    assert number.target_problem(7).startswith("the training rows have no label 7; use one of '1', '2'")
    assert truth.target_problem(1).startswith("1 is of type int")


def test_targets_are_indices_and_unknown_labels_are_refused():
    task = learnt([True, False, True])
    targets = task.targets([True, False, np.bool_(True)])
    assert targets.tolist() == [1, 0, 1]
    assert targets.dtype == np.int64
    assert task.targets([]).shape == (0,)
    with pytest.raises(DataError, match="1 is of type int") as caught:
        task.targets([True, 1, "x"])
    assert "value 1" in str(caught.value)
    assert "value 2" in str(caught.value)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("weights", ["none", "balanced", {"a": 3.0, "c": 0.25}])
def test_loss_is_torchs_weighted_smoothed_cross_entropy(weights, smoothing):
    rng = np.random.default_rng(0)
    values = ["a", "b", "c", "a", "a", "b", "a", "c", "a"]
    task = learnt(values, class_weights=weights, label_smoothing=smoothing)
    logits = torch.tensor(rng.normal(size=(9, 3)) * 3, dtype=torch.float64, requires_grad=True)
    targets = torch.from_numpy(task.targets(values))
    loss = task.loss(logits, targets)
    mean = loss.total / loss.weight
    w = {"none": [1, 1, 1], "balanced": [9 / 15, 9 / 6, 9 / 6]}[weights] if isinstance(weights, str) else [3.0, 1.0, 0.25]
    reference = functional.cross_entropy(
        logits, targets, weight=torch.tensor(w, dtype=torch.float64), label_smoothing=smoothing
    )
    assert mean.item() == pytest.approx(reference.item(), rel=1e-7)
    # and the closed form of the docstring
    logp, w_C, y = log_softmax(logits.detach().numpy(), axis=1), np.asarray(w), targets.numpy()
    closed = -(1 - smoothing) * w_C[y] * logp[np.arange(9), y] - smoothing / 3 * (logp @ w_C)
    assert mean.item() == pytest.approx(closed.sum() / w_C[y].sum(), rel=1e-6)
    mean.backward()
    (expected,) = torch.autograd.grad(reference, logits)
    assert torch.allclose(logits.grad, expected, atol=1e-7)


def test_losses_of_parts_add_up_to_the_loss_of_the_whole():
    values = ["a", "b", "c", "a", "a", "b", "a"]
    task = learnt(values, class_weights="balanced", label_smoothing=0.1)
    logits, targets = torch.randn(7, 3, dtype=torch.float64), torch.from_numpy(task.targets(values))
    whole = task.loss(logits, targets)
    parts = [task.loss(logits[s], targets[s]) for s in (slice(0, 1), slice(1, 4), slice(4, 7))]
    assert sum(p.total for p in parts).item() == pytest.approx(whole.total.item())
    assert sum(p.weight for p in parts).item() == pytest.approx(whole.weight.item())


def test_weights_by_label_name_in_every_spelling_yaml_allows():
    assert learnt([0, 1, 1], class_weights={0: 5}).weights == (5.0, 1.0)
    assert learnt([True, False, True], class_weights={True: 2}).weights == (1.0, 2.0)
    pick = Pick("classification", {"class_weights": {True: 2}})
    _, again = Pick("classification", {k: v for k, v in to_json(pick).items() if k != "name"}).resolve(TASKS)
    task = Classification(again)
    task.learn([True, False, True], Ledger())
    assert task.weights == (1.0, 2.0)


def test_wrong_options_are_refused_with_the_nearest_label():
    with pytest.raises(OptionsError) as caught:
        learnt(["ham", "spam", "ham"], class_weights={"spma": 2.0})
    assert "there is a weight for the label 'spma'" in str(caught.value)
    assert "did you mean 'spam'?" in str(caught.value)
    for bad in ({"class_weights": {"a": 0.0}}, {"class_weights": "even"}, {"label_smoothing": 1.0}, {"label_smoothing": -0.1}):
        with pytest.raises(OptionsError):
            build(ClassificationOptions, bad)


def test_probabilities_are_a_stable_softmax_in_double_precision():
    task = learnt(["a", "b", "c", "a"])
    logits = np.array([[1e4, -1e4, 0.0], [0.1, 0.2, 0.3], [-1e30, -1e30, -1e30]], dtype=np.float32)
    shares = task.probabilities(logits)
    assert shares.dtype == np.float64
    np.testing.assert_allclose(shares, softmax(logits.astype(np.float64), axis=1), rtol=1e-14)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-14)
    assert task.probabilities(np.zeros((0, 3))).shape == (0, 3)


def test_decode_gives_label_probabilities_and_logits_of_each_row():
    task = learnt([False, True, True])
    first, second = task.decode(np.array([[0.0, 1.0], [2.0, 2.0]], dtype=np.float32))
    assert first.value is True
    assert list(first.probabilities) == ["false", "true"]
    assert first.probabilities["true"] == pytest.approx(1 / (1 + np.exp(-1.0)))
    assert first.logits == (0.0, 1.0)
    assert second.value is False  # a tie goes to the first label
    json.dumps([first.to_json(), second.to_json()], allow_nan=False)
    assert task.decode(np.zeros((0, 2))) == []


def test_an_output_that_is_not_finite_is_an_error_in_its_place():
    task = learnt(["a", "b", "a"])
    good, bad, worse = task.decode(np.array([[0.0, 1.0], [np.nan, 0.0], [np.inf, 0.0]]))
    assert good.value == "b"
    for prediction in (bad, worse):
        assert prediction.value is None
        assert prediction.error == "the network's output for this row is not a finite number"


@pytest.mark.parametrize("n", [4, 5, 50])
def test_the_example_can_be_learnt_from_its_signal(n):
    signal, values = Classification.example(n, seed=3)
    again, same = Classification.example(n, seed=3)
    assert np.array_equal(signal, again)
    assert values == same
    assert signal.min() >= 0
    assert signal.max() <= 1
    bands = {"low": (0, 0.25), "middle": (0.375, 0.625), "high": (0.75, 1)}
    assert all(bands[value][0] <= x <= bands[value][1] for x, value in zip(signal[:, 0], values, strict=True))
    learnt(values)


def test_the_head_is_drawn_from_its_seed_and_leaves_the_callers_state_alone():
    heads = pytest.importorskip("regraft.models.heads")
    task = learnt(["a", "b", "c", "a"])
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = task.head(8, 0.1, seed=1), task.head(8, 0.1, seed=1), task.head(8, 0.1, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(one, heads.LinearHead)
    states = [torch.cat([p.flatten() for p in head.parameters()]) for head in (one, two, other)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
