"""Supervised batches: every row once an epoch, in an order that only the generator decides."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chisquare

from regraft.errors import DataError
from regraft.objectives.supervised import Supervised, SupervisedOptions
from regraft.options import build
from regraft.tasks.classification import Classification, ClassificationOptions
from regraft.tasks.multi_target import MultiTarget, MultiTargetOptions
from regraft.tasks.regression import Regression, RegressionOptions
from regraft.types import Batch, Ledger


class Rows:
    """Rows of known lengths that say which rows were asked for."""

    def __init__(self, lengths):
        self.lengths = np.asarray(lengths)

    def __len__(self):
        return len(self.lengths)

    def batch(self, rows, targets=None):
        longest = self.lengths[rows].max()
        mask = np.arange(longest) < self.lengths[rows][:, None]
        return Batch(inputs={}, mask_BT=mask, targets=targets[rows], rows_B=rows)

    def drawn(self, rng):
        return self


def attached(lengths) -> Supervised:
    return Supervised(SupervisedOptions()).attach(Rows(lengths), np.arange(len(lengths)) * 10, Regression(RegressionOptions()))


def epoch(objective, batch_size, micro, seed=0):
    return list(objective.batches(0, batch_size, micro, np.random.default_rng(seed)))


@pytest.mark.parametrize("n", [1, 7, 8, 9, 100])
@pytest.mark.parametrize(("batch_size", "micro"), [(8, 8), (8, 3), (1, 1), (200, 16)])
def test_every_row_comes_exactly_once_with_its_own_target(n, batch_size, micro):
    objective = attached(np.random.default_rng(n).integers(1, 30, n))
    batches = epoch(objective, batch_size, micro)
    assert len(batches) == objective.steps_per_epoch(batch_size) == -(-n // batch_size)
    rows = np.concatenate([batch.rows_B for step in batches for batch in step])
    assert sorted(rows.tolist()) == list(range(n)) == list(range(objective.rows_per_epoch()))
    for step in batches:
        assert sum(batch.size for batch in step) <= batch_size
        assert all(batch.size <= micro for batch in step)
        assert all((batch.targets == batch.rows_B * 10).all() for batch in step)
    assert all(sum(b.size for b in step) == batch_size for step in batches[:-1])


def test_the_same_generator_gives_the_same_order_and_another_one_another():
    objective = attached(range(1, 51))
    orders = [[b.rows_B.tolist() for step in epoch(objective, 8, 8, seed) for b in step] for seed in (1, 1, 2)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0][0] != sorted(orders[0][0])


def test_splitting_a_batch_changes_neither_its_rows_nor_its_targets_and_saves_padding():
    objective = attached(np.random.default_rng(0).integers(1, 100, 64))
    whole, parts = epoch(objective, 16, 16), epoch(objective, 16, 4)
    for (batch,), step in zip(whole, parts, strict=True):
        assert sorted(batch.rows_B.tolist()) == sorted(r for b in step for r in b.rows_B.tolist())
        assert sum(b.mask_BT.size for b in step) < batch.mask_BT.size
        assert sum(b.mask_BT.sum() for b in step) == batch.mask_BT.sum()


@pytest.mark.parametrize(
    ("lengths", "targets", "got"),
    [
        ([], np.zeros(0), "0 rows and 0 targets"),
        ([1, 2], np.zeros(3), "2 rows and 3 targets"),
        ([1], None, "1 rows and 0 targets"),
    ],
)
def test_rows_without_their_targets_are_refused(lengths, targets, got):
    with pytest.raises(DataError) as caught:
        Supervised(SupervisedOptions()).attach(Rows(lengths), targets, Regression(RegressionOptions()))
    assert "supervised learning needs training rows, each with its target" in str(caught.value)
    assert got in str(caught.value)
    assert "value in the target column" in str(caught.value)


def several(rows):
    """Rows of two targets: nine in ten lack the second, and of the first one class in ten is rare."""
    task = MultiTarget(build(MultiTargetOptions, {"targets": {"kind": "classification", "price": "regression"}}))
    values = [{"kind": "rare" if i % 10 == 3 else "often", "price": float(i) if i % 10 == 0 else None} for i in range(rows)]
    task.learn(values, Ledger())
    return task, task.targets(values)


class Varied(Rows):
    """Rows that say of which draw they are."""

    draw = 0.0

    def batch(self, rows, targets=None):
        return replace(super().batch(rows, targets), inputs={"draw": np.full(len(rows), self.draw)})

    def drawn(self, rng):
        made = copy.copy(self)
        made.draw = rng.random()
        return made


def test_rows_that_are_split_again_keep_order_targets_draws_and_the_scales_of_their_update():
    task, targets = several(40)
    rows = Varied(np.random.default_rng(0).integers(1, 30, 40))
    objective = Supervised(SupervisedOptions()).attach(rows, targets, task)
    draws = set()
    for update in objective.batches(0, 16, 8, np.random.default_rng(3)):
        next(objective.batches(1, 16, 16, np.random.default_rng(4)))  # somebody looks at another epoch
        objective.largest(16, 8, [np.random.default_rng(5)], padded=True)
        draws.update(batch.inputs["draw"][0] for batch in update)
        break
    update = next(objective.batches(0, 16, 8, np.random.default_rng(3)))
    parts = objective.split(update, 3)
    assert [batch.size for batch in parts] == [3, 3, 2, 3, 3, 2]
    for name in ("rows_B", "targets"):
        ours, whole = (np.concatenate([getattr(batch, name) for batch in made]) for made in (parts, update))
        np.testing.assert_array_equal(ours, whole)
    assert {number for batch in parts for number in batch.inputs["draw"]} == draws
    assert all(np.array_equal(batch.scales, update[0].scales) for batch in parts)
    assert update[0].scales is not None
    assert objective.split(parts, 8) == parts
    assert objective.divisible


def test_a_balanced_epoch_gives_every_class_and_every_target_the_same_chance():
    task, targets = several(400)
    chances = task.balance(targets)
    rare, priced = targets[:, 0] == 1, ~np.isnan(targets[:, 1])
    kind = np.where(rare, 0.5 / rare.sum(), 0.5 / (~rare).sum())
    np.testing.assert_allclose(chances, kind + priced / priced.sum(), rtol=1e-12)
    objective = Supervised(build(SupervisedOptions, {"sampling": "balanced"})).attach(Rows(np.full(400, 3)), targets, task)
    drawn = np.concatenate([batch.rows_B for steps in epoch(objective, 32, 32, seed=5) for batch in steps])
    assert len(drawn) == 400
    assert objective.rows_per_epoch() == 400
    again = np.concatenate([batch.rows_B for steps in epoch(objective, 32, 32, seed=5) for batch in steps])
    np.testing.assert_array_equal(drawn, again)
    counts = np.bincount(np.concatenate([objective._order(np.random.default_rng(seed)) for seed in range(200)]), minlength=400)
    expected = 200 * 400 * chances / chances.sum()
    assert chisquare(counts, expected).pvalue > 1e-3


def test_of_one_target_the_classes_come_equally_often():
    task = Classification(ClassificationOptions())
    task.learn(["a"] * 90 + ["b"] * 10, Ledger())
    chances = task.balance(task.targets(["a"] * 90 + ["b"] * 10))
    assert chances[:90].sum() == pytest.approx(chances[90:].sum())
    numbers = Regression(RegressionOptions())
    assert (numbers.balance(np.arange(5.0)) == 1).all()
