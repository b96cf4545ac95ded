"""What a training will take, against what it took; what does not fit is split or refused before the first step."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from memory_turn import bert
from tiny_net import tiny_net, tiny_objective
from torch import nn

from regraft.errors import MachineError
from regraft.options import build
from regraft.training import memory as memory_module
from regraft.training.loop import train
from regraft.training.memory import Demand, Estimate, Forecast, fitted, optimizer_bytes
from regraft.training.memory_curve import curve
from regraft.training.options import TrainOptions
from regraft.tuning.full import Full, FullOptions

QUICK = ("padded-ragged", "weights", "adapters")
SLOW = (
    "padded",
    "packed",
    "split",
    "last-layer",
    "lstm",
    "convolutions",
    "bf16",
    "recompute",
    "recompute-padded",
    "adapters-padded",
)
SHARE = 0.25
FULL = Full(FullOptions())


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel says what a process holds at most")
@pytest.mark.parametrize("case", [*QUICK, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)])
def test_the_estimate_is_near_the_peak_that_was_measured(case):
    """The bar is the peak of the process; of what training adds to it, what kernels take inside themselves is not seen."""
    found = turn(case)
    assert found["measured_mb"] > found["before_mb"] + 20  # it is training that was measured
    assert found["expected_mb"] == pytest.approx(found["measured_mb"], rel=SHARE)
    grew = found["measured_mb"] - found["held_mb"]
    assert found["needed_mb"] == pytest.approx(grew, rel=2 * SHARE)


def turn(case: str) -> dict:
    script = Path(__file__).with_name("memory_turn.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(script), case], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def demand(net=None, objective=None, validates=False, **values) -> Demand:
    net, objective = net or tiny_net(), objective or tiny_objective()
    options = build(TrainOptions, {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "dropout": 0.0, **values})
    names = {name for name, _ in net.named_parameters()}
    return Demand(net=net, objective=objective, options=options, trainable=names, seed=0, validates=validates)


def with_free(monkeypatch, free: int | None) -> None:
    monkeypatch.setattr(memory_module, "free_memory_bytes", lambda: free)


def test_parts_that_can_be_counted_by_hand():
    net = tiny_net()
    weights = sum(weight.numel() for weight in net.parameters()) * 4
    found = Forecast(demand(net, validates=True)).at(8)
    assert found.gradients == found.snapshot == weights
    assert found.optimizer == 2 * weights
    assert Forecast(demand(net)).at(8).snapshot == 0
    assert found.needed == found.activations + 4 * weights
    assert found.peak == found.needed + found.held


def test_a_step_is_watched_to_the_byte():
    """A linear map without bias, squared and added up: what lives when is known by heart."""
    net = tiny_net()
    wide = nn.Linear(50, 70, bias=False)
    net.backbone.mix = nn.Identity()
    net.head = wide
    x_BD = torch.ones(40, 50)

    def loss(_, __):
        return wide(x_BD).square().sum()

    batch = next(tiny_objective(n=8).batches(0, 8, 8, np.random.default_rng(0)))[0]
    found = curve(net, loss, batch, {"head.weight"})
    output, gradient = 40 * 70 * 4, 50 * 70 * 4
    assert found.gradients == found.largest_gradient == gradient
    # The output and its square, before they are added up; going back, twice the output times what comes in.
    assert 2 * output <= found.activations_N.max() <= 4 * output + 100
    assert found.activations_N[-1] <= output + 100  # what is left at the end is the gradient alone, but for the last product
    assert wide.weight.grad is None


@pytest.mark.parametrize("shapes", ["packed", "padded"])
def test_a_few_rows_tell_what_all_of_them_take_and_whether_padding_counts(shapes):
    net, objective = bert(shapes, layers=2, words=12, width=32), tiny_objective(n=64)
    forecast = Forecast(demand(net, objective, batch_size=64, epochs=1))
    assert forecast.padded == (shapes == "padded")
    estimate = forecast.at(64)
    batch = objective.largest(64, 64, [np.random.default_rng(0)], padded=True)
    assert estimate.positions == (batch.mask_BT.size if shapes == "padded" else batch.mask_BT.sum())
    names = {name for name, _ in net.named_parameters()}
    found = curve(net, lambda net, given: objective.loss(net, given)[0].total, batch, names)
    peak = (found.activations_N + found.gradients_N).max() - found.gradients
    assert estimate.activations == pytest.approx(peak, rel=0.2)


def test_nothing_is_changed_by_looking():
    net, objective = tiny_net(dropout=0.3), tiny_objective()
    net.head.dropout = nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.3))
    before, twin = copy.deepcopy(net.state_dict()), copy.deepcopy(net)
    flags = [(weight.requires_grad, weight.grad) for weight in net.parameters()]
    modes = [module.training for module in net.modules()]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    asked = demand(net, objective)
    assert fitted(asked, lambda _: None) is asked.options
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [(weight.requires_grad, weight.grad) for weight in net.parameters()] == flags
    assert [module.training for module in net.modules()] == modes
    for each, rows in ((net, objective), (twin, tiny_objective())):
        list(train(each, rows, FULL, asked.options))
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in net.state_dict().items())


def test_it_is_said_in_one_sentence(monkeypatch):
    with_free(monkeypatch, 5_000_000_000)
    notes = []
    fitted(demand(), notes.append)
    (said,) = notes
    for part in ("memory: training takes about", "held now", "gradients", "optimiser state", "8 rows of", "5,000 MB are free"):
        assert part in said
    with_free(monkeypatch, None)
    fitted(demand(), notes.append)
    assert "free" not in notes[1]


def test_what_does_not_fit_is_split_until_it_does(monkeypatch):
    asked = demand(objective=tiny_objective(n=64), batch_size=32)
    needed = {rows: Forecast(asked).at(rows).needed for rows in (32, 16, 8)}
    assert needed[32] > needed[16] > needed[8]
    with_free(monkeypatch, needed[8] * 10 // 9 + 1)
    notes = []
    options = fitted(asked, notes.append)
    assert (options.micro_batch_size, options.batch_size) == (8, 32)
    assert "a forward pass sees 8 rows instead of 32" in notes[1]
    assert "updates are still those of 32 rows" in notes[1]


def test_what_cannot_fit_is_refused_with_a_table(monkeypatch):
    with_free(monkeypatch, 100)
    with pytest.raises(MachineError) as caught:
        fitted(demand(validates=True), lambda _: None)
    text = str(caught.value)
    for part in (
        "there is not enough memory to train this network with one row a forward pass",
        "before the first step",
        "activations of 1 row of",
        "gradients",
        "optimiser state",
        "best weights",
        "needed beside what is held now",
        "free",
        "let fewer weights learn",
    ):
        assert part in text


def test_a_batch_whose_rows_belong_together_is_not_split(monkeypatch):
    asked = demand(objective=tiny_objective(n=64), batch_size=32)
    asked.objective._task.paired = True
    with_free(monkeypatch, Forecast(asked).at(8).needed * 10 // 9 + 1)
    with pytest.raises(MachineError, match="a batch of 32 rows, which cannot be split") as caught:
        fitted(asked, lambda _: None)
    assert "lower train.batch_size" in str(caught.value)


def test_no_memory_for_a_look_is_no_memory_for_training():
    asked = demand()

    def loss(net, batch):
        raise MemoryError("9000 bytes")

    asked.objective.loss = loss
    with pytest.raises(MachineError, match="a pass over 2 rows ended with: 9000 bytes"):
        fitted(asked, lambda _: None)


def test_without_epochs_nothing_is_looked_at():
    asked = demand(epochs=0)
    asked.objective.loss = None
    assert fitted(asked, lambda _: None) is asked.options


def test_the_largest_micro_batch_of_all_epochs_is_found():
    objective = tiny_objective(n=61)
    lengths = objective._rows.lengths
    for micro in (3, 8):
        made = [
            batch
            for epoch in range(3)
            for update in objective.batches(epoch, 8, micro, np.random.default_rng(epoch))
            for batch in update
        ]
        rngs = [np.random.default_rng(epoch) for epoch in range(3)]
        found = objective.largest(8, micro, rngs, padded=False)
        assert found.mask_BT.sum() == max(batch.mask_BT.sum() for batch in made)
        assert list(lengths[found.rows_B]) == sorted(lengths[found.rows_B], reverse=True)
        rngs = [np.random.default_rng(epoch) for epoch in range(3)]
        assert objective.largest(8, micro, rngs, padded=True).mask_BT.size == max(batch.mask_BT.size for batch in made)


def test_the_state_of_an_optimiser_is_counted_by_a_step_of_it():
    weights = [nn.Parameter(torch.zeros(300, 200)), nn.Parameter(torch.zeros(300)), nn.Parameter(torch.zeros(()))]
    options = build(TrainOptions, {})
    assert optimizer_bytes(options, weights[:2]) == 2 * 4 * (300 * 200 + 300)
    assert all(weight.grad is None for weight in weights)


def test_an_estimate_says_whether_it_fits():
    parts = {"held": 10, "gradients": 1, "optimizer": 2, "snapshot": 3, "activations": 4, "rows": 1, "positions": 1}
    assert Estimate(**parts, free=12).fits
    assert not Estimate(**parts, free=11).fits
    assert Estimate(**parts, free=None).fits
