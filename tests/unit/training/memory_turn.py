"""One training in a process of its own: what its memory was expected to be, and what it was.

python memory_turn.py CASE
"""

from __future__ import annotations

import itertools
import json
import sys
import time

import numpy as np
import torch
import transformers
from tiny_net import Numbers
from torch import nn

from regraft.modalities.encoded import EncodedRows
from regraft.models.architectures import ARCHITECTURES
from regraft.models.backbones import Backbone, Body, PoolingChoice, Shapes
from regraft.models.heads import LinearHead
from regraft.models.net import Headed
from regraft.models.recomputed import Recompute
from regraft.models.scratch_networks import LstmConfig, LstmModel
from regraft.models.slab import Slab
from regraft.objectives.supervised import Supervised, SupervisedOptions
from regraft.options import build
from regraft.tasks.classification import Classification, ClassificationOptions
from regraft.training.cost import peak_memory_mb
from regraft.training.loop import Validation, train
from regraft.training.memory import Demand, Forecast
from regraft.training.options import TrainOptions
from regraft.training.precision import Precision
from regraft.training.savings import Savings, with_savings
from regraft.tuning.lora import Lora, LoraOptions
from regraft.tuning.parts import Decided
from regraft.types import Batch, Features, Ledger

WORDS, WIDTH = 4000, 256


def bert(shapes="packed", layers=4, dropout=0.0, words=WORDS, width=WIDTH):
    config = transformers.BertConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * width,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    model = transformers.BertModel(config)
    model.pooler = None
    return headed(model, "bert", shapes, dropout)


def lstm():
    config = LstmConfig(vocab_size=WORDS, hidden_size=WIDTH, num_hidden_layers=2, pad_token_id=0, hidden_dropout_prob=0.0)
    return headed(LstmModel(config), "regraft-lstm", "padded", 0.0)


def headed(model, kind, shapes, dropout):
    backbone = Backbone(Body(model.eval(), ARCHITECTURES[kind]), PoolingChoice("mean", ""))
    backbone.shapes = Shapes(shapes)
    return Headed(backbone, LinearHead(backbone.width, 2, dropout, torch.Generator().manual_seed(0)))


class Pictures(nn.Module):
    """Convolutions with batch norm over numbers laid out as a square."""

    convex = True
    pooling = nn.Identity()

    def __init__(self):
        super().__init__()
        self.width, widths = 64, (3, 32, 64, 64)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())
                for before, after in itertools.pairwise(widths)
            )
        )

    def forward(self, inputs, mask_BT):
        cells = inputs["input_ids"].float().view(len(mask_BT), 1, 48, 48).expand(-1, 3, -1, -1) / WORDS
        pooled = self.layers(cells).mean((2, 3))
        return Features(sequence_BTD=pooled.unsqueeze(1), mask_BT=mask_BT[:, :1], pooled_BD=pooled)


def pictures():
    return Headed(Pictures(), LinearHead(64, 2, 0.0, torch.Generator().manual_seed(0)))


def uniform(rng, count):
    return np.full(count, 128)


def lognormal(rng, count):
    return np.clip(np.exp(rng.normal(3.5, 0.8, count)), 3, 256).astype(int)


def square(rng, count):
    return np.full(count, 48 * 48)


def everything(name):
    return True


def last_layer(name):
    return name.startswith("head") or ".layer.3." in name


def adapter(name):
    return name.startswith("head") or "lora" in name


def adapted(shapes):
    net = bert(shapes, layers=8, dropout=0.1)
    rows = Batch(inputs={"input_ids": np.ones((2, 4), dtype=np.int64)}, mask_BT=np.ones((2, 4), dtype=bool))
    Lora(LoraOptions(rank=8)).prepare(net, iter([rows]), 0)
    return net


CASES = {
    "padded": (lambda: bert("padded"), uniform, everything, {"batch_size": 32}, "fp32"),
    "packed": (bert, lognormal, everything, {"batch_size": 64}, "fp32"),
    "padded-ragged": (lambda: bert("padded", layers=2, dropout=0.1), lognormal, everything, {"batch_size": 16}, "fp32"),
    "split": (bert, lognormal, everything, {"batch_size": 64, "micro_batch_size": 16}, "fp32"),
    "last-layer": (bert, uniform, last_layer, {"batch_size": 64}, "fp32"),
    "weights": (lambda: bert(words=60_000, width=512, layers=2), uniform, everything, {"batch_size": 4}, "fp32"),
    "lstm": (lstm, lognormal, everything, {"batch_size": 64}, "fp32"),
    "convolutions": (pictures, square, everything, {"batch_size": 32}, "fp32"),
    "bf16": (bert, uniform, everything, {"batch_size": 32}, "bf16"),
    "recompute": (lambda: bert(layers=8, dropout=0.1), lognormal, everything, {"batch_size": 64}, "fp32"),
    "recompute-padded": (lambda: bert("padded", layers=8, dropout=0.1), uniform, everything, {"batch_size": 32}, "fp32"),
}
LITTLE = {"adapters", "adapters-padded"}
CASES |= {
    "adapters": (lambda: adapted("packed"), lognormal, adapter, {"batch_size": 64}, "fp32"),
    "adapters-padded": (lambda: adapted("padded"), uniform, adapter, {"batch_size": 32}, "fp32"),
}
SAVED = {"recompute", "recompute-padded"}


def main(case):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net_of, lengths_of, learns, values, precision = CASES[case]
    rng = np.random.default_rng(0)
    steps = 2  # the second one has the state of the optimiser and the best weights beside it
    labels = ["a", "b"] * (steps * values["batch_size"] // 2)
    raws = [rng.integers(1, WORDS, length).tolist() for length in lengths_of(rng, len(labels))]
    task = Classification(ClassificationOptions())
    task.learn(labels, Ledger())
    objective = Supervised(SupervisedOptions()).attach(EncodedRows(Numbers(), [raws]), task.targets(labels), task)
    net = net_of()
    names = {name for name, _ in net.named_parameters() if learns(name)}
    options = build(TrainOptions, {"epochs": 1, "validation": {"every": 1}, **values})
    savings = Savings(Recompute(on=True)) if case in SAVED else Savings(slab=Slab() if case in LITTLE else None)
    if case in SAVED:
        savings.tighten()
    network = Precision(precision).network(with_savings(net, savings))
    began = time.perf_counter()
    demand = Demand(net=network, objective=objective, options=options, trainable=names, seed=0, validates=True, savings=savings)
    forecast = Forecast(demand)
    estimate = forecast.at(forecast.micro_batch_size)
    took_s, before_mb = time.perf_counter() - began, peak_memory_mb()
    scores = iter(range(99))
    judge = Validation(run=lambda: {"score": float(next(scores))}, metric="score", higher_is_better=True)
    began = time.perf_counter()
    list(train(network, objective, Decided(names), options, validation=judge, seed=0))
    step_s = (time.perf_counter() - began) / steps
    found = {
        "case": case,
        "padded": forecast.padded,
        "held_mb": estimate.held / 1e6,
        "before_mb": before_mb,
        "expected_mb": estimate.peak / 1e6,
        "measured_mb": peak_memory_mb(),
        "needed_mb": estimate.needed / 1e6,
        "took_s": took_s,
        "step_s": step_s,
        "parts": {name: round(size / 1e6) for name, size in estimate.parts().items()},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
