"""Retrieval against closed forms in numpy: the loss with several true pairs, the places with ties, chance, zero-shot shares."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from regraft.errors import DataError
from regraft.models.heads import Tower
from regraft.models.joinings import Sizes, TowersJoining
from regraft.options import build
from regraft.tasks import TASKS
from regraft.tasks.retrieval import Retrieval, RetrievalOptions
from regraft.types import Features, Ledger, Prediction


def made(**options: float) -> Retrieval:
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
