"""The budget of ranks against PEFT's own allocator, step by step."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from regraft.tuning.rank_budget import Budget, RankAllocator, Triplets

LAYERS, RANK, TOTAL = 3, 6, 20


def model_of(seed):
    """Return adapters under the names that PEFT gives them."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Module()
    for number in range(LAYERS):
        layer = nn.Module()
        shapes = {"lora_A": (RANK, 5), "lora_B": (4, RANK), "lora_E": (RANK, 1)}
        for name, shape in shapes.items():
            setattr(layer, name, nn.ParameterDict({"default": nn.Parameter(torch.randn(shape, generator=generator))}))
        setattr(net, f"layer{number}", layer)
    return net


def updated(net, step):
    """Do an update with gradients that depend on the step alone."""
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in net.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            parameter.sub_(0.1 * parameter.grad)


def test_the_budget_falls_with_the_cube():
    budget = Budget(first=100, last=20, warmup=10, settling=10, every=4)
    assert [budget.at(step, 100) for step in (1, 10, 30, 50, 70, 90, 91, 100)] == [100, 100, 53, 30, 21, 20, 20, 20]
    assert [step for step in range(1, 30) if budget.chooses(step, 100)] == [12, 16, 20, 24, 28]
    assert all(budget.chooses(step, 100) for step in range(91, 101))


@pytest.mark.parametrize("every", [1, 3])
def test_each_step_keeps_what_pefts_allocator_keeps(every):
    allocator = pytest.importorskip("peft.tuners.adalora.layer").RankAllocator
    theirs, ours = model_of(0), model_of(0)
    config = SimpleNamespace(beta1=0.85, beta2=0.85, target_r=2, tinit=4, tfinal=5, deltaT=every, total_step=TOTAL, init_r=RANK)
    reference = allocator(theirs, config, "default")
    layers = dict(ours.named_children())
    mine = RankAllocator(
        {name: Triplets(one.lora_E["default"], one.lora_A["default"], one.lora_B["default"]) for name, one in layers.items()},
        Budget(first=LAYERS * RANK, last=LAYERS * 2, warmup=4, settling=5, every=every),
    )
    kept = []
    for step in range(1, TOTAL + 1):
        for net in (theirs, ours):
            updated(net, step)
        reference.update_and_allocate(theirs, step)
        mine.after_update(step, TOTAL)
        for (name, one), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
            assert torch.equal(one, other), (step, name)
        kept.append(sum(int((one.lora_E["default"] != 0).sum()) for one in layers.values()))
    assert kept[:4] == [LAYERS * RANK] * 4
    assert kept[-1] == LAYERS * 2
    assert len(set(kept)) > 3
