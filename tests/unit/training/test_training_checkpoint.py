"""Training that goes on from any of its states ends with the same bits as training that nobody interrupted."""

from __future__ import annotations

import copy
import json
import signal
import threading
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load
from tiny_net import tiny_judge, tiny_net, tiny_objective

from regraft.artifact.run import safetensors_parts
from regraft.errors import ArtifactError, InterruptedRunError
from regraft.options import build
from regraft.registry import installed
from regraft.regularizers.regularized import regularized
from regraft.training.checkpoint import Nothing, State, Stop, captured, put_into, stopping
from regraft.training.events import EndEvent, StepEvent, ValidEvent
from regraft.training.loop import Validation, train
from regraft.training.options import TrainOptions
from regraft.tuning.full import Full, FullOptions
from regraft.tuning.head import Head, HeadOptions

FULL, HEAD = Full(FullOptions()), Head(HeadOptions())


class Memory(Nothing):
    """Keep a copy of every state, and begin with one of them."""

    def __init__(self, start: State | None = None, stop_at: int | None = None) -> None:
        self.start, self.stop_at, self.kept = start, stop_at, {}

    def begin(self) -> State | None:
        return self.start

    def due(self, step: int) -> bool:
        return True

    def keep(self, state: State) -> None:
        self.kept[state.step] = replace(state, tensors={name: value.clone() for name, value in state.tensors.items()})
        if state.step == self.stop_at:
            raise InterruptedRunError("stop")


def fit(keeper, tuning=FULL, judged=True, higher=False, **values):
    net, objective = tiny_net(dropout=0.3), tiny_objective()
    picks = build(TrainOptions, {"regularize": values.get("regularize", [])}).regularize
    learnt = regularized(objective, picks)
    learnt.attach(objective._rows, objective._targets, objective._task)
    given = {"epochs": 3, "batch_size": 8, "learning_rate": 1e-2, "dropout": 0.0, "validation": {"every": 3}, **values}
    validation = Validation(run=tiny_judge(net, objective), metric="log-loss", higher_is_better=higher) if judged else None
    events = list(train(net, learnt, tuning, build(TrainOptions, given), validation=validation, seed=3, keeper=keeper))
    return {name: value.clone() for name, value in net.state_dict().items()}, events


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"micro_batch_size": 2},
        {"validation": {"every": 3, "patience": 1}, "learning_rate": 0.3},
        {"judged": False},
        {"tuning": HEAD},
        {"regularize": {"ema": {"decay": 0.7}}},
        {"regularize": {"l2-sp": {}, "r-drop": {}, "ema": {"decay": 0.5}}, "micro_batch_size": 3},
        {"regularize": {"fgm": {"at": "pooled"}, "pgd": {"at": "pooled", "steps": 2}, "smart": {"at": "pooled"}}},
        {"regularize": {"manifold-mixup": {}}},
        {"regularize": {"swa": {"start": 0.3, "every": 2}}, "judged": False},
        {"bad_steps": {"policy": {"name": "roll-back", "every": 3}, "exploding": 1.05, "limit": 99}, "learning_rate": 0.05},
        {"optimizer": {"name": "adamw", "beta1": 0.5}, "schedule": "cosine", "max_steps": 9},
        {"optimizer": "sgd", "schedule": {"name": "plateau", "patience": 0, "min_change": 9.0}, "learning_rate": 0.1},
        {"optimizer": "adafactor", "schedule": "wsd"},
        {"optimizer": "lion", "schedule": "inverse-sqrt", "micro_batch_size": 3},
        {"optimizer": "muon", "schedule": "polynomial"},
        pytest.param({"optimizer": "adam8bit"}, marks=pytest.mark.skipif(not installed("bitsandbytes"), reason="its extra")),
    ],
)
def test_going_on_from_any_state_gives_the_same_bits(values):
    memory = Memory()
    whole, events = fit(memory, **values)
    ends = [event for event in events if isinstance(event, StepEvent | ValidEvent | EndEvent)]
    assert len(memory.kept) > 4
    for step, state in memory.kept.items():
        found, again = fit(Memory(start=state), **values)
        assert same(found, whole), step
        told = [replace(event, seconds=0.0) for event in ends if event.step > step]
        assert [replace(event, seconds=0.0) for event in again if isinstance(event, StepEvent | ValidEvent)] == [
            event for event in told if not isinstance(event, EndEvent)
        ]
        assert again[-1].best_step == events[-1].best_step


def test_the_best_weights_are_part_of_the_state():
    memory = Memory()
    whole, events = fit(memory, higher=True)
    best = events[-1].best_step
    later = next(step for step in memory.kept if step > best)
    assert any(name.startswith("best.") for name in memory.kept[later].tensors)
    found, _ = fit(Memory(start=memory.kept[max(memory.kept)]), higher=True)
    assert same(found, whole)
    assert best < events[-1].step


def test_a_state_of_another_network_is_refused():
    memory = Memory()
    fit(memory)
    state = memory.kept[3]
    lacking = {name: value for name, value in state.tensors.items() if not name.endswith("head.linear.bias")}
    for tensors in (lacking, {**state.tensors, "weights.head.linear.bias": torch.zeros(5)}):
        with pytest.raises(ArtifactError, match="the checkpoint is of another network"):
            fit(Memory(start=replace(state, tensors=tensors)))


def test_the_state_is_that_between_two_updates_also_of_the_objective():
    """GradNorm moves its weights after the update; a state taken before that would lack it."""
    from regraft.objectives.gradnorm import GradNorm

    one = GradNorm(("a", "b"), 0.5)
    for step in range(4):
        one.begin()
        one.move(torch.tensor([1.0, 2.0]).numpy() / (1 + step), torch.tensor([0.5, 0.1]).numpy())
    other = GradNorm(("a", "b"), 0.5)
    other.put_back(json.loads(json.dumps(one.state())))
    for each in (one, other):
        each.move(torch.tensor([0.3, 0.2]).numpy(), torch.tensor([0.2, 0.9]).numpy())
    assert one.weights_K.tolist() == other.weights_K.tolist()
    assert one.told() == other.told()
    fresh = GradNorm(("a", "b"), 0.5)
    fresh.put_back(json.loads(json.dumps(GradNorm(("a", "b"), 0.5).state())))
    assert fresh.told() == GradNorm(("a", "b"), 0.5).told()


def test_a_scale_of_fp16_goes_on():
    from regraft.training.precision import Precision

    one = Precision("fp16")
    one.scale, one._good_steps = 4096.0, 17
    other = Precision("fp16")
    other.put_back(copy.deepcopy(one.state()))
    assert (other.scale, other._good_steps) == (4096.0, 17)


def test_signals_ask_once_and_then_insist():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop = Stop()
        with stopping(stop):
            assert not stop.asked
            signal.raise_signal(signal.SIGTERM)
            assert stop.asked == "SIGTERM"
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) == before[1]
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with stopping(Stop()):
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN, "who ignores it has a reason"
    finally:
        signal.signal(signal.SIGINT, before[0])


def test_threads_that_hear_no_signals_are_left_alone():
    handler = signal.getsignal(signal.SIGTERM)
    seen = []

    def inside():
        with stopping(Stop()):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [handler]


def test_moments_lie_in_memory_as_their_weights_do():
    """A fused optimiser goes through a weight and its moments side by side, whatever the order of their axes is."""
    from regraft.training.fused import FusedAdamW

    def made():
        torch.manual_seed(0)
        net = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        groups = [{"params": list(net.parameters()), "lr": 0.1, "weight_decay": 0.0}]
        return net, FusedAdamW(groups, (0.9, 0.999), 1e-8)

    def step(net, optimizer, seed):
        torch.manual_seed(seed)
        net(torch.randn(2, 3, 8, 8)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    names = {"weight", "bias"}
    net, optimizer = made()
    for seed in range(3):
        step(net, optimizer, seed)
    tensors, others = captured(net, names, optimizer)
    content = b"".join(safetensors_parts(tensors))
    other, fresh = made()
    put_into(other, names, fresh, State(3, load(content)), others)
    for seed in range(3, 5):
        step(net, optimizer, seed)
        step(other, fresh, seed)
    assert fresh.state[other.weight]["exp_avg"].stride() == other.weight.stride()
    assert torch.equal(net.weight, other.weight)
    assert torch.equal(net.bias, other.bias)
