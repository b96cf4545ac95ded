"""An update is that of its whole batch, in however many pieces the batch goes through the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_net import Numbers, TinyBackbone, tiny_rows

from regraft.modalities.encoded import EncodedRows
from regraft.models.blocks import Blocks
from regraft.models.net import Headed
from regraft.objectives.supervised import Supervised, SupervisedOptions
from regraft.options import Pick, build
from regraft.tasks import TASKS
from regraft.training.events import StepEvent
from regraft.training.loop import train
from regraft.training.options import TrainOptions
from regraft.training.seed import row_generator
from regraft.tuning.full import Full, FullOptions
from regraft.types import Ledger

ROWS = 40  # two whole batches of 16 and a short one
_NUMBERS = {"cost": "regression", "kind": {"name": "classification", "class_weights": "balanced"}}


def targets_for(name):
    """Return targets of very unequal rows: rare classes, far outliers, targets that rows lack."""
    rng = np.random.default_rng(5)
    numbers = np.where(rng.random(ROWS) < 0.1, 50.0, 1.0) * rng.normal(size=ROWS)
    kinds = [("often", "seldom", "rare")[int(place)] for place in rng.choice(3, size=ROWS, p=[0.8, 0.15, 0.05])]
    kinds[:3] = ["often", "seldom", "rare"]
    if name == "classification":
        return kinds
    if name == "multi-label":
        return [[label for label in ("a", "b", "c") if rng.random() < 0.3] for _ in range(ROWS)]
    if name == "regression":
        return numbers.tolist()
    if name == "ordinal":
        return rng.integers(1, 5, size=ROWS).tolist()
    lacks = rng.random((ROWS, 2)) < 0.4
    lacks[lacks.all(axis=1), 0] = False
    lacks[0] = False
    return [
        {"cost": None if lack[0] else float(number), "kind": None if lack[1] else kind}
        for number, kind, lack in zip(numbers, kinds, lacks, strict=True)
    ]


CASES = {
    "classes": {"name": "classification"},
    "weighted classes": {"name": "classification", "class_weights": {"rare": 9.0, "often": 0.25}, "label_smoothing": 0.1},
    "labels": {"name": "multi-label", "class_weights": "balanced"},
    "numbers": {"name": "regression", "loss": "huber"},
    "quantiles": {"name": "regression", "quantiles": [0.1, 0.9]},
    "ranks": {"name": "ordinal"},
    "several targets": {"name": "multi-target", "targets": _NUMBERS, "weights": {"cost": 0.3}},
    "learnt weights": {"name": "multi-target", "targets": _NUMBERS, "weighting": "uncertainty"},
    "weights by gradients": {"name": "multi-target", "targets": _NUMBERS, "weighting": "gradnorm"},
}


def network(task):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        net = Headed(TinyBackbone(), task.head(8, 0.0, 1))
    net.backbone.blocks = Blocks(embeddings=("words",), layers=("mix",), final=())
    return net


def learnt(pick, micro, sampling="every-row", **values):
    """Return the weights before and after an epoch of updates of 16 rows, and its losses."""
    cls, chosen = Pick(pick["name"], {key: value for key, value in pick.items() if key != "name"}).resolve(TASKS)
    task, targets = cls(chosen), targets_for(pick["name"])
    task.learn(targets, Ledger())
    raws, _ = tiny_rows(ROWS)
    objective = Supervised(SupervisedOptions(sampling=sampling)).attach(
        EncodedRows(Numbers(), [raws]), task.targets(targets), task
    )
    net = network(task).double()
    before = torch.cat([weight.detach().flatten().clone() for weight in net.parameters()])
    given = {"optimizer": {"name": "sgd", "momentum": 0.0}, "learning_rate": 0.5, "head_learning_rate": 0.5, **values}
    options = build(TrainOptions, {"epochs": 1, "batch_size": 16, "micro_batch_size": micro, **given})
    losses = [
        event.loss for event in train(net, objective, Full(FullOptions()), options, seed=2) if isinstance(event, StepEvent)
    ]
    return before, torch.cat([weight.detach().flatten() for weight in net.parameters()]), losses


@pytest.mark.parametrize("sampling", ["every-row", "balanced"])
@pytest.mark.parametrize("case", CASES)
def test_accumulation_gives_the_update_of_the_whole_batch(case, sampling):
    """One, four and sixteen pieces, their rows of 1 to 9 positions sorted by length."""
    start, whole, losses = learnt(CASES[case], 16, sampling)
    assert len(losses) == 3
    assert float((whole - start).abs().max()) > 1e-3
    for micro in (4, 1):
        _, found, again = learnt(CASES[case], micro, sampling)
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-6)
        assert again == pytest.approx(losses, abs=1e-6)


def test_the_loss_is_that_of_all_rows_and_not_a_mean_of_means():
    """What is computed by hand: the sum of weighted losses over the sum of weights of all 16 rows."""
    cls, chosen = Pick("classification", {"class_weights": {"rare": 9.0}}).resolve(TASKS)
    task, targets = cls(chosen), targets_for("classification")
    task.learn(targets, Ledger())
    raws, _ = tiny_rows(ROWS)
    objective = Supervised(SupervisedOptions()).attach(EncodedRows(Numbers(), [raws]), task.targets(targets), task)
    net = network(task)
    pieces = next(objective.batches(0, 16, 4, row_generator(2, 0)))
    with torch.no_grad():
        logits = torch.cat([net(*net.tensors(batch)) for batch in pieces])
    wanted = torch.from_numpy(np.concatenate([batch.targets for batch in pieces]))
    expected = torch.nn.functional.cross_entropy(logits, wanted, weight=torch.tensor(task.weights))
    options = build(TrainOptions, {"max_steps": 1, "batch_size": 16, "micro_batch_size": 4})
    first = next(event for event in train(net, objective, Full(FullOptions()), options, seed=2) if isinstance(event, StepEvent))
    assert first.loss == pytest.approx(float(expected), abs=1e-6)
