"""AdaLoRA in training: above a cut, over an interruption, with validations, in bf16."""

from __future__ import annotations

import copy

import numpy as np
import torch
from frozen_net import TUNINGS, Work, difference, frozen_net, number_rows, same
from test_training_checkpoint import Memory
from tiny_net import Numbers

from regraft.modalities.encoded import EncodedRows
from regraft.models.adalora import decomposed
from regraft.objectives.supervised import Supervised, SupervisedOptions
from regraft.options import build
from regraft.regularizers.regularized import regularized
from regraft.tasks.classification import Classification, ClassificationOptions
from regraft.training.events import EndEvent, StepEvent, ValidEvent
from regraft.training.loop import Validation, train
from regraft.training.options import TrainOptions
from regraft.training.precision import Precision
from regraft.tuning.adalora import AdaLora, AdaLoraOptions
from regraft.types import Ledger

RAWS, TARGETS = number_rows(24, 0)


def adapted(layers=None, dropout=0.0, **options):
    net = frozen_net("bert", dropout=dropout)
    tuning = AdaLora(build(AdaLoraOptions, {"rank": 4, "layers": layers, **options}))
    rows = EncodedRows(Numbers(), [RAWS])
    tuning.prepare(net, iter([rows.batch(np.arange(4))]), 0)
    return net, tuning


def fit(keeper=None, precision="fp32", dropout=0.2, scores=None, **values):
    """Train 12 updates, with a validation after every second that gives these scores."""
    net, tuning = adapted(dropout=dropout)
    task = Classification(ClassificationOptions())
    task.learn(["ab"[int(target)] for target in TARGETS], Ledger())
    objective = regularized(Supervised(SupervisedOptions()), (), tuning.follows())
    objective.attach(EncodedRows(Numbers(), [RAWS]), TARGETS, task)
    given = {"epochs": 4, "batch_size": 8, "learning_rate": 1e-2, "validation": {"every": 2}, **values}
    validation = None
    if scores is not None:
        left_over = iter(scores)
        validation = Validation(run=lambda: {"score": next(left_over)}, metric="score", higher_is_better=True)
    more = {} if keeper is None else {"keeper": keeper}
    options = build(TrainOptions, given)
    events = list(train(Precision(precision).network(net), objective, tuning, options, validation=validation, seed=3, **more))
    return net, events, objective


def left(net):
    return {path: int(layer.lora_E.count_nonzero()) for path, layer in decomposed(net).items()}


def test_trained_above_a_cut_it_learns_what_it_learns_on_the_whole(tmp_path, monkeypatch):
    net, tuning = adapted(2, warmup=0.0)
    monkeypatch.setitem(TUNINGS, "adalora", tuning)
    before = copy.deepcopy(net.state_dict())
    work = Work(tmp_path, "adalora", steps=12)
    whole, cold, warm = work.run(net, enabled=False), work.run(net), work.run(net)
    assert work.files(), "what lies below is kept"
    assert same(cold, warm)
    assert difference(whole, cold) <= 1e-6
    moved = {name for name, value in cold.items() if not torch.equal(value, before[name])}
    assert moved <= tuning.trainable(net)
    values = [value for name, value in cold.items() if name.endswith("lora_E")]
    assert sum(int(value.count_nonzero()) for value in values) == 3 * len(values)


def test_going_on_from_any_state_gives_the_same_bits():
    memory = Memory()
    whole, events, _ = fit(memory)
    assert sum(left(whole).values()) == 3 * len(left(whole))
    assert sorted(memory.kept) == list(range(12))
    for state in memory.kept.values():
        again, _, objective = fit(Memory(start=state))
        assert same(again.state_dict(), whole.state_dict()), state.step
        assert objective.notes


def test_the_best_weights_have_the_budget():
    net, events, objective = fit(scores=[0.9, 0.8, 0.7, 0.4, 0.6, 0.5])
    assert [event.best for event in events if isinstance(event, ValidEvent)] == [False] * 3 + [True, True, False]
    assert isinstance(events[-1], EndEvent)
    assert events[-1].best_step == 10
    assert sum(left(net).values()) == 3 * len(left(net))
    assert objective.notes == (f"adalora: {3 * 18} of {4 * 18} directions are left, {_range(net)} in each of 18 layers",)


def _range(net):
    ranks = left(net).values()
    return f"{min(ranks)} to {max(ranks)}"


def test_in_bf16_it_learns_and_comes_down_to_the_budget():
    net, events, _ = fit(precision="bf16", dropout=0.0)
    losses = [event.loss for event in events if isinstance(event, StepEvent)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert sum(left(net).values()) == 3 * len(left(net))
