"""A network of a few hundred weights and rows of token numbers: everything the loop sees, without a base."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import torch
from torch import nn

from regraft.modalities.encoded import EncodedRows
from regraft.modalities.modality import Modality
from regraft.models.net import Headed
from regraft.objectives.supervised import Supervised, SupervisedOptions
from regraft.tasks.classification import Classification, ClassificationOptions
from regraft.types import Encoded, Features, Ledger

WORDS = 12


class Numbers(Modality):
    """Rows are lists of token numbers."""

    name = "numbers"

    def problem(self, raw):
        return ""

    padding = MappingProxyType({"input_ids": 0})

    def encode(self, raws, *, spans=True):
        return [
            Encoded(inputs={"input_ids": np.asarray(raw, dtype=np.int64)}, spans_T2=np.zeros((len(raw), 2), dtype=np.int32))
            for raw in raws
        ]

    def spec(self):
        return {}

    def save(self, folder):
        pass

    @classmethod
    def load(cls, folder, spec):
        return cls()

    @classmethod
    def recognises(cls, values):
        return False

    @classmethod
    def example(cls, signal_NS, seed):
        return [[1]] * len(signal_NS)


class TinyBackbone(nn.Module):
    convex = True

    def __init__(self, width=8, dropout=0.0):
        super().__init__()
        self.width = width
        self.words = nn.Embedding(WORDS, width)
        self.mix = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.Dropout(dropout))
        self.pooling = nn.Identity()

    def forward(self, inputs, mask_BT):
        sequence = self.mix(self.words(inputs["input_ids"]))
        weights = mask_BT.unsqueeze(-1).to(sequence)
        pooled = (sequence * weights).sum(1) / weights.sum(1)
        return Features(sequence_BTD=sequence, mask_BT=mask_BT, pooled_BD=pooled)


class TinyHead(nn.Module):
    def __init__(self, width, outputs, dropout):
        super().__init__()
        self.dropout, self.linear = nn.Dropout(dropout), nn.Linear(width, outputs)

    def forward(self, features):
        return self.linear(self.dropout(features.pooled_BD))


def tiny_net(seed=0, dropout=0.0, outputs=2) -> Headed:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Headed(TinyBackbone(dropout=dropout), TinyHead(8, outputs, dropout))


def tiny_rows(n=30, seed=0):
    """Rows of 1 to 9 tokens, most of them from the half of the words that the label names."""
    rng = np.random.default_rng(seed)
    labels = ["high" if i % 2 else "low" for i in range(n)]
    half = WORDS // 2
    upper = [rng.random(rng.integers(1, 10)) < (0.85 if label == "high" else 0.15) for label in labels]
    return [[int(t) for t in rng.integers(0, half, size=len(u)) + half * u] for u in upper], labels


def tiny_objective(n=30, seed=0, **options) -> Supervised:
    raws, labels = tiny_rows(n, seed)
    task = Classification(ClassificationOptions(**options))
    task.learn(labels, Ledger())
    return Supervised(SupervisedOptions()).attach(EncodedRows(Numbers(), [raws]), task.targets(labels), task)


def tiny_judge(net, objective):
    """Return a validation over the training rows: accuracy and log-loss."""

    def run():
        rows = np.arange(objective.rows_per_epoch())
        (micro,) = next(objective.batches(0, len(rows), len(rows), np.random.default_rng(0)))
        with torch.no_grad():
            logits = net(*net.tensors(micro))
            targets = torch.from_numpy(micro.targets)
            loss = nn.functional.cross_entropy(logits, targets)
        return {"accuracy": float((logits.argmax(1) == targets).float().mean()), "log-loss": float(loss)}

    return run
