"""Networks with rows and regularisers around their objective, for tests."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
import transformers
from frozen_net import frozen_net, number_rows
from tiny_net import Numbers

from regraft.modalities.encoded import EncodedRows
from regraft.models.architectures import ARCHITECTURES
from regraft.models.backbones import Backbone, Body, PoolingChoice
from regraft.models.heads import LinearHead
from regraft.models.net import Headed
from regraft.objectives.supervised import Supervised, SupervisedOptions
from regraft.options import Pick
from regraft.regularizers.regularized import Regularized, regularized
from regraft.regularizers.regularizer import Scene
from regraft.tasks.classification import Classification, ClassificationOptions
from regraft.types import Batch, Ledger

SIDE = 16
STEPS = 5


def task_of(targets, **options) -> Classification:
    task = Classification(ClassificationOptions(**options))
    task.learn(["ab"[int(target)] for target in targets], Ledger())
    return task


class Pictures:
    """Rows that are pictures of small random numbers, brighter for one of two classes."""

    def __init__(self, count=24, seed=0):
        rng = np.random.default_rng(seed)
        self.targets = np.arange(count) % 2
        self.pixels = (rng.normal(size=(count, 3, SIDE, SIDE)) + self.targets[:, None, None, None]).astype(np.float32)
        self.lengths = np.ones(count, dtype=np.int64)

    def __len__(self):
        return len(self.lengths)

    def batch(self, rows, targets=None):
        rows = np.asarray(rows)
        chosen = None if targets is None else targets[rows]
        mask = np.ones((len(rows), 1), dtype=bool)
        return Batch(inputs={"pixel_values": self.pixels[rows]}, mask_BT=mask, targets=chosen, rows_B=rows)

    def drawn(self, rng):
        return self


def picture_net(kind="vit", dropout=0.0, seed=0) -> Headed:
    """Two layers or stages over pictures of 16 by 16."""
    vit = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    makers = {
        "vit": lambda: transformers.ViTModel(
            transformers.ViTConfig(
                image_size=SIDE, patch_size=8, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, **vit
            ),
            add_pooling_layer=False,
        ),
        "resnet": lambda: transformers.ResNetModel(
            transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[3, 2], layer_type="basic")
        ),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = makers[kind]()
    for name in ARCHITECTURES[kind].unused:
        if getattr(model, name, None) is not None:
            setattr(model, name, torch.nn.Identity())
    backbone = Backbone(Body(model.eval(), ARCHITECTURES[kind]), PoolingChoice("mean", ""))
    return Headed(backbone, LinearHead(backbone.width, 2, dropout, torch.Generator().manual_seed(0)))


def around(picks, rows, targets, task=None) -> Regularized:
    """Return regularisers around the objective over some rows."""
    made = regularized(Supervised(SupervisedOptions()), [pick if isinstance(pick, Pick) else Pick(pick) for pick in picks])
    return made.attach(rows, np.asarray(targets), task or task_of(targets))


def words(picks, task=None, count=24, seed=0, **options) -> Regularized:
    raws, targets = number_rows(count, seed)
    return around(picks, EncodedRows(Numbers(), [raws]), targets, task or task_of(targets, **options))


def first_batch(objective, rows=8, micro=None) -> Batch:
    return next(objective.batches(0, rows, micro or rows, np.random.default_rng(1)))[0]


def five_steps_alike(net, objective, batch, by_hand, rate=0.1):
    """Take five steps of plain descent by the loss of an objective and by what a test computes itself, all in float64.

    Losses and weights may differ by 1e-6. What is random is drawn from the same seeds.

    Args:
        net: The network; it takes the steps of the objective.
        objective: With regularisers, attached to rows.
        batch: The rows of every step.
        by_hand: (network, batch) -> the loss, summed over rows.
        rate: Of the descent, for the mean over rows.
    """
    net.double()
    batch = replace(batch, inputs={name: _wide(values) for name, values in batch.inputs.items()})
    twin = copy.deepcopy(net)
    losses = []
    for step in range(STEPS):
        pair = []
        for each, loss in ((net, lambda: objective.loss(net, batch)[0].total), (twin, lambda: by_hand(twin, batch))):
            torch.manual_seed(step)
            total = loss()
            each.zero_grad()
            total.backward()
            with torch.no_grad():
                for weight in each.parameters():
                    if weight.grad is not None:
                        weight -= rate * weight.grad / batch.size
            each.zero_grad()
            pair.append(total.item())
        assert total.dtype == torch.float64
        np.testing.assert_allclose(pair[0], pair[1], rtol=0, atol=1e-6, err_msg=f"step {step + 1}")
        losses.append(pair[0])
    assert len(set(losses)) == STEPS
    for (name, one), other in zip(net.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6, msg=name)


def _wide(values):
    return values.astype(np.float64) if np.issubdtype(values.dtype, np.floating) else values


def scene_of(net, objective, trainable=None) -> Scene:
    names = frozenset(name for name, _ in net.named_parameters()) if trainable is None else frozenset(trainable)
    return Scene(net=net, trainable=names, task=objective._task, objective=objective._inner)


__all__ = ["Pictures", "around", "first_batch", "five_steps_alike", "frozen_net", "picture_net", "scene_of", "task_of", "words"]
