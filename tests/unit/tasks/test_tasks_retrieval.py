"""Retrieval against closed forms in numpy: the loss with several true pairs, the places with ties, chance, zero-shot shares."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from regraft.errors import DataError, OptionsError
from regraft.models.heads import Tower
from regraft.models.joinings import Sizes, TowersJoining
from regraft.options import build
from regraft.tasks import TASKS
from regraft.tasks.retrieval import Retrieval, RetrievalOptions
from regraft.types import Features, Ledger, Prediction


def made(**options: float | str) -> Retrieval:
    task = Retrieval(build(RetrievalOptions, options))
    task.learn(["cat", "dog"], Ledger())
    task.joins(["picture", "name"])
    return task


def info_nce(first: np.ndarray, second: np.ndarray, targets: np.ndarray) -> float:
    """The bidirectional loss, row by row in loops: the mean of -log softmax over the true pairs of a row."""
    logits, total = first @ second.T, 0.0
    for scores in (logits, logits.T):
        logs = log_softmax(scores, axis=1)
        for row in range(len(targets)):
            true = [other for other in range(len(targets)) if targets[other] == targets[row]]
            total -= sum(logs[row, other] for other in true) / len(true)
    return total / 2


def test_the_loss_is_the_closed_form_with_and_without_several_true_pairs():
    rng = np.random.default_rng(0)
    for targets in (np.arange(7), np.array([3, 1, 3, 3, 2, 1, 9])):
        vectors = rng.normal(size=(7, 10))
        loss = made().loss(torch.from_numpy(vectors), torch.from_numpy(targets))
        assert float(loss.total) == pytest.approx(info_nce(vectors[:, :5], vectors[:, 5:], targets), rel=1e-5)
        assert float(loss.weight) == 7


def test_with_one_row_a_target_the_loss_is_clips():
    """Radford et al. 2021, figure 3: the mean of the cross-entropies of rows and of columns against the diagonal."""
    vectors = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    logits, diagonal = vectors[:, :4] @ vectors[:, 4:].T, torch.arange(6)
    entropy = torch.nn.functional.cross_entropy
    clip = (entropy(logits, diagonal) + entropy(logits.T, diagonal)) / 2
    loss = made().loss(vectors, torch.tensor([5, 1, 7, 2, 9, 4]))
    assert float(loss.total / loss.weight) == pytest.approx(float(clip), rel=1e-6)


def siglip(first: np.ndarray, second: np.ndarray, targets: np.ndarray, scale: float, bias: float) -> float:
    """Zhai et al. 2023, algorithm 1, pair by pair in loops, of vectors of length 1: the sum over rows and not their mean."""
    total = 0.0
    for row in range(len(targets)):
        for other in range(len(targets)):
            sign = 1.0 if targets[row] == targets[other] else -1.0
            total += math.log1p(math.exp(-sign * (scale * float(first[row] @ second[other]) + bias)))
    return total


def sided(first: np.ndarray, second: np.ndarray, scale: float, biases: tuple[float, float]) -> np.ndarray:
    """Return what two towers give: vectors of half the scale each, and each tower's own share of the bias."""
    sides = [math.sqrt(scale) * vectors for vectors in (first, second)]
    return np.concatenate(
        [np.column_stack([side, np.full(len(side), bias)]) for side, bias in zip(sides, biases, strict=True)], axis=1
    )


@pytest.mark.parametrize("targets", [np.arange(7), np.array([3, 1, 3, 3, 2, 1, 9])])
def test_the_sigmoid_loss_is_the_closed_form_of_siglip(targets):
    rng = np.random.default_rng(0)
    first, second = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in rng.normal(size=(2, 7, 5)))
    for scale, biases in ((10.0, (-5.0, -5.0)), (3.0, (0.5, -2.0))):
        output = torch.from_numpy(sided(first, second, scale, biases))
        loss = made(loss="sigmoid").loss(output, torch.from_numpy(targets))
        assert float(loss.total) == pytest.approx(siglip(first, second, targets, scale, sum(biases)), rel=1e-5)
        assert float(loss.weight) == 7


def test_gradients_of_the_sigmoid_loss_are_those_of_the_papers_code():
    """Algorithm 1 as it stands there, with one t' and one b: each tower holds a share of both."""
    rng = torch.Generator().manual_seed(2)
    heads = [Tower((6, 0, 4), 0.0, 10.0, rng, bias=-10.0).double() for _ in range(2)]
    found = [torch.randn(5, 6, generator=rng, dtype=torch.float64) for _ in range(2)]
    scale, bias = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (math.log(10.0), -10.0))
    sides = [torch.nn.functional.normalize(head.linear(head.norm(x)), dim=-1) for head, x in zip(heads, found, strict=True)]
    logits = sides[0] @ sides[1].T * scale.exp() + bias
    labels = 2 * torch.eye(5, dtype=torch.float64) - 1
    weights = [head.linear.weight for head in heads]
    wanted = torch.autograd.grad(-torch.nn.functional.logsigmoid(labels * logits).sum() / 5, [*weights, scale, bias])
    output = torch.cat([head(features(x)) for head, x in zip(heads, found, strict=True)], dim=1)
    loss = made(loss="sigmoid").loss(output, torch.arange(5))
    ours = torch.autograd.grad(
        loss.total / loss.weight, [*weights, *(head.log_scale for head in heads), *(head.bias for head in heads)]
    )
    # t' and b are sums of two shares, so each share has the gradient of the sum.
    for found_gradient, gradient in zip(ours, [*wanted[:2], *[wanted[2]] * 2, *[wanted[3]] * 2], strict=True):
        assert torch.allclose(found_gradient.double(), gradient, rtol=2e-4, atol=1e-7)


def test_gradients_of_the_sigmoid_loss_are_finite_differences():
    task, targets = made(loss="sigmoid"), torch.tensor([4, 1, 4])
    output = torch.randn(3, 8, generator=torch.Generator().manual_seed(5))
    output.requires_grad_()
    task.loss(output, targets).total.backward()
    step, flat = 1e-2, output.detach().ravel()
    for place in range(flat.numel()):
        moved = [flat.clone().index_add(0, torch.tensor([place]), torch.tensor([sign * step])) for sign in (1.0, -1.0)]
        above, below = (float(task.loss(one.view(3, 8), targets).total) for one in moved)
        assert (above - below) / (2 * step) == pytest.approx(float(output.grad.ravel()[place]), abs=3e-3)


def test_a_tower_with_a_bias_starts_where_siglip_does_and_is_not_held_to_clips_limit():
    tower = made(loss="sigmoid", width=4).head(6, 0.0, 3)
    output = tower(features(torch.randn(5, 6, generator=torch.Generator().manual_seed(0))))
    assert torch.allclose((output[:, :4] ** 2).sum(dim=1), torch.tensor(10.0))
    assert torch.equal(output[:, 4], torch.full((5,), -5.0))
    own = made(loss="sigmoid", width=4, temperature=0.5, bias=-3.0).head(6, 0.0, 3)(features(torch.randn(5, 6)))
    assert torch.allclose((own[:, :4] ** 2).sum(dim=1), torch.tensor(2.0))
    assert torch.equal(own[:, 4], torch.full((5,), -1.5))
    with torch.no_grad():
        tower.log_scale.fill_(3.0)
    assert torch.allclose(tower(features(torch.randn(2, 6)))[:, :4].norm(dim=1), torch.tensor(math.exp(3.0)))
    assert sorted(made(width=4).head(6, 0.0).state_dict()) == ["linear.weight", "log_scale", "norm.bias", "norm.weight"]


def test_the_bias_is_no_part_of_a_vector_but_of_the_probability_of_a_pair():
    rng = np.random.default_rng(3)
    first, second = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in rng.normal(size=(2, 4, 3)))
    task, output = made(loss="sigmoid"), sided(first, second, 8.0, (-4.0, -3.0))
    output[1, 4:] = 0.0
    judged = task.probabilities(output)
    assert judged.shape == (4, 6)
    np.testing.assert_allclose(judged[:, :3], math.sqrt(8.0) * first)
    decoded = task.decode(output)
    assert [list(one.value) for one in decoded] == [["picture", "name"], ["picture"], ["picture", "name"], ["picture", "name"]]
    np.testing.assert_allclose([one.value["picture"] for one in decoded], first, atol=1e-7)
    np.testing.assert_array_equal([one.logits for one in decoded], output)
    asking, there = (output[[0, 2, 3], start : start + 4] for start in (0, 4))
    cosines, probabilities = task.matched(asking, there)
    wanted = first[[0, 2, 3]] @ second[[0, 2, 3]].T
    np.testing.assert_allclose(cosines, wanted, rtol=1e-12)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-(8.0 * wanted - 7.0))), rtol=1e-12)
    assert task.same_answer(decoded[0], decoded[0], 0.0)
    assert not task.same_answer(decoded[0], decoded[2], 1e-5)


def test_probabilities_of_the_softmax_are_shares_of_all_that_can_be_found():
    rng = np.random.default_rng(4)
    asking, there = rng.normal(size=(3, 5)), rng.normal(size=(6, 5))
    cosines, probabilities = made().matched(asking, there)
    np.testing.assert_allclose(probabilities, np.exp(log_softmax(asking @ there.T, axis=1)), rtol=1e-12)
    lengths = np.linalg.norm(asking, axis=1)[:, None] * np.linalg.norm(there, axis=1)
    np.testing.assert_allclose(cosines, asking @ there.T / lengths, rtol=1e-12)


def test_a_bias_for_the_softmax_is_refused():
    with pytest.raises(OptionsError, match=r"the loss softmax has no bias") as caught:
        made(bias=-10.0)
    assert "set task.loss=sigmoid, or leave task.bias out" in str(caught.value)


def test_what_was_written_before_there_was_a_choice_is_read_as_softmax():
    was = {"width": 16, "hidden": 0, "temperature": 0.07}
    task = Retrieval.restore(build(RetrievalOptions, was), {"parts": ["picture", "name"]})
    assert sorted(task.head(6, 0.0).state_dict()) == ["linear.weight", "log_scale", "norm.bias", "norm.weight"]
    assert torch.equal(task.head(6, 0.0).log_scale, made(width=16).head(6, 0.0).log_scale)


def test_names_of_one_thing_in_two_languages_are_not_held_against_each_other():
    """All rows of one thing: there is nothing to tell apart, so no vector is drawn anywhere but to the even spread."""
    vectors = torch.zeros(4, 6, requires_grad=True)
    made().loss(vectors + torch.tensor([1.0, 0, 0, 1, 0, 0]), torch.tensor([8, 8, 8, 8])).total.backward()
    assert torch.allclose(vectors.grad, torch.zeros_like(vectors), atol=1e-6)


def features(vectors: torch.Tensor) -> Features:
    return Features(vectors.unsqueeze(1), torch.ones(len(vectors), 1, dtype=torch.bool), vectors)


def test_inner_products_of_towers_are_cosines_over_the_temperature():
    heads = [Tower((width, hidden, 4), 0.0, 1 / 0.07).eval() for width, hidden in ((6, 0), (9, 7))]
    rng = torch.Generator().manual_seed(0)
    one, two = (head(features(torch.randn(5, width, generator=rng))) for head, width in zip(heads, (6, 9), strict=True))
    cosines = torch.nn.functional.cosine_similarity(one, two)
    assert torch.allclose((one * two).sum(dim=1), cosines / 0.07, rtol=1e-5)


def test_the_scale_stays_within_clips_limit_and_can_come_down_again():
    tower = Tower((4, 0, 3), 0.0, 1 / 0.07)
    with torch.no_grad():
        tower.log_scale.fill_(5.0)
    output = tower(features(torch.randn(2, 4, generator=torch.Generator().manual_seed(0))))
    assert torch.allclose(output.norm(dim=1), torch.tensor(10.0))
    output.norm(dim=1).sum().backward()
    assert float(tower.log_scale.grad) > 0


def test_a_part_that_is_missing_has_no_vector_and_changes_no_other():
    task = made(width=4)
    joining = TowersJoining(Sizes(widths=(6, 5), part_dropout=0.5)).train()
    head = joining.head(task, 0.0, 3).eval()
    found = [features(torch.randn(3, width, generator=torch.Generator().manual_seed(width))) for width in (6, 5)]
    there = torch.tensor([[True, True], [False, True], [True, False]])
    output = head(features(joining(found, there)))
    whole = head(features(joining(found, torch.ones_like(there))))
    assert torch.equal(output[1, :4], torch.zeros(4))
    assert torch.equal(output[2, 4:], torch.zeros(4))
    assert torch.equal(output[1, 4:], whole[1, 4:])
    decoded = task.decode(output.detach().numpy())
    assert [list(prediction.value) for prediction in decoded] == [["picture", "name"], ["name"], ["picture"]]
    assert all(math.hypot(*vector) == pytest.approx(1, abs=1e-6) for one in decoded for vector in one.value.values())


def test_targets_are_the_same_number_whichever_rows_they_stand_in():
    task = made()
    assert task.targets(["cat", "dog", "cat"]).tolist() == [*task.targets(["cat", "dog"]).tolist(), task.targets(["cat"])[0]]
    assert len({*task.targets([str(number) for number in range(5000)]).tolist()}) == 5000
    assert task.targets([1])[0] != task.targets(["1"])[0]


def test_what_cannot_be_learnt_says_what_to_do():
    task = Retrieval(RetrievalOptions())
    with pytest.raises(DataError, match="all rows are of the same"):
        task.learn(["cat", "cat"], Ledger())
    with pytest.raises(DataError, match="choose a column that names things"):
        task.learn(["cat", 2.5], Ledger())
    with pytest.raises(DataError, match="name a column for each of two towers"):
        task.joins([])
    with pytest.raises(DataError, match="neither a text nor a whole number"):
        task.targets(["cat", None])


def test_answers_agree_where_their_vectors_do():
    task = made()
    near, far = {"picture": [0.6, 0.8]}, {"picture": [0.8, 0.6]}
    was = Prediction(value=near, logits=(3.0, 4.0, 0.0, 0.0))
    assert task.same_answer(was, Prediction(value={"picture": [0.600001, 0.8]}), 1e-5)
    assert not task.same_answer(was, Prediction(value=far), 1e-5)
    assert not task.same_answer(was, Prediction(value={"name": [0.6, 0.8]}), 1e-5)
    assert task.alike(near, near)
    assert not task.alike(near, far)
    assert math.isnan(task.cost("cat", near))
    assert TASKS.get("retrieval").restore(task.options, task.state()).names == ("picture", "name")
    assert task.decode(np.array([[np.nan, 1.0, 1.0, 1.0]]))[0].error
