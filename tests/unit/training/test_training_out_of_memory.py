"""A step that runs out of memory is done again in smaller pieces, and comes to the same."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch
from tiny_net import tiny_net, tiny_objective
from torch import nn

from regraft.errors import MachineError
from regraft.options import build
from regraft.training.events import NoteEvent, StepEvent
from regraft.training.loop import train
from regraft.training.options import TrainOptions
from regraft.training.out_of_memory import is_out_of_memory
from regraft.tuning.full import Full, FullOptions

FULL = Full(FullOptions())
ALLOCATOR = "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
ERRORS = [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError(f"{ALLOCATOR} 9000 bytes")]


def options(**values) -> TrainOptions:
    return build(TrainOptions, {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "dropout": 0.0, **values})


def run(net, objective, chosen):
    return list(train(net, objective, FULL, chosen, seed=3))


def steps(events):
    return [event for event in events if isinstance(event, StepEvent)]


def short_of_memory(objective, most_rows, *, from_call=0, error=None):
    """Let an objective take no more than so many rows a forward pass, and note which rows it has taken.

    It gives up after it has computed the loss, as late as it can.
    """
    honest, seen, calls = objective.loss, [], 0

    def loss(net, batch):
        nonlocal calls
        calls += 1
        found = honest(net, batch)
        if calls > from_call and batch.size > most_rows:
            raise error or MemoryError()
        seen.append(list(batch.rows_B))
        return found

    objective.loss = loss
    return seen


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("micro", [None, 4])
def test_the_losses_are_those_of_a_run_with_enough_memory(error, micro):
    nets = [tiny_net().double(), tiny_net().double()]
    whole, short = tiny_objective(n=30), tiny_objective(n=30)
    wanted = steps(run(nets[0], whole, options(micro_batch_size=micro)))
    # Memory runs out in the third update, where there are several micro-batches after the first of them.
    short_of_memory(short, 3, from_call=2 if micro is None else 5, error=error)
    found = run(nets[1], short, options(micro_batch_size=micro))
    assert len(steps(found)) == len(wanted) == 8
    np.testing.assert_allclose([e.loss for e in steps(found)], [e.loss for e in wanted], atol=1e-6, rtol=0)
    np.testing.assert_allclose([e.gradient_norm for e in steps(found)], [e.gradient_norm for e in wanted], atol=1e-6, rtol=0)
    assert [(e.rows, e.positions) for e in steps(found)] == [(e.rows, e.positions) for e in wanted]
    for one, other in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.allclose(one, other, atol=1e-6, rtol=0)


def test_the_same_rows_go_through_in_the_same_order_and_later_steps_begin_with_fewer():
    whole, short = tiny_objective(n=16), tiny_objective(n=16)
    order = short_of_memory(whole, 99)
    run(tiny_net(), whole, options(epochs=1))
    seen = short_of_memory(short, 4)
    events = run(tiny_net(), short, options(epochs=1))
    assert [len(rows) for rows in seen] == [4, 4, 4, 4]  # the second update does not try 8 again
    assert list(chain(*seen)) == list(chain(*order))
    assert [type(event).__name__ for event in events] == ["BeginEvent", "NoteEvent", "StepEvent", "StepEvent", "EndEvent"]
    (note,) = (event for event in events if isinstance(event, NoteEvent))
    assert note.level == "warning"
    assert "out of memory in step 1 of 2: a forward pass sees 4 instead of 8 rows from here on" in note.text


def test_a_step_that_is_done_again_draws_from_the_same_seed():
    objective, seeds = tiny_objective(n=16), []
    honest = objective.loss

    def loss(net, batch):
        seeds.append(torch.initial_seed())
        torch.rand(3)
        if batch.size > 4:
            raise MemoryError()
        return honest(net, batch)

    objective.loss = loss
    run(tiny_net(), objective, options(epochs=1))
    first, again, *_, last = seeds
    assert first == again != last


def test_statistics_of_batches_are_not_counted_twice():
    def net():
        made = tiny_net()
        made.head.dropout = nn.BatchNorm1d(8)
        return made

    chosen = options(epochs=1, micro_batch_size=4)
    plain, short, objective = net(), net(), tiny_objective(n=8)
    run(plain, tiny_objective(n=8), options(epochs=1, micro_batch_size=2))
    short_of_memory(objective, 2)
    run(short, objective, chosen)
    # Rows are sorted by length wherever a batch is split, so that pairs are the same.
    assert int(short.head.dropout.num_batches_tracked) == int(plain.head.dropout.num_batches_tracked) == 4
    assert torch.allclose(short.head.dropout.running_mean, plain.head.dropout.running_mean, atol=1e-6)


def test_where_one_row_is_too_much_it_ends_with_what_to_do():
    net, objective = tiny_net(), tiny_objective(n=8)
    before = [weight.detach().clone() for weight in net.parameters()]
    short_of_memory(objective, 0, error=RuntimeError(f"{ALLOCATOR} 9000 bytes"))
    with pytest.raises(MachineError) as caught:
        run(net, objective, options())
    text = str(caught.value)
    for part in ("out of memory over a single row", "step 1 of 2", "DefaultCPUAllocator", "--tuning lora", "larger machine"):
        assert part in text
    assert all(map(torch.equal, net.parameters(), before))
    assert all(weight.grad is None for weight in net.parameters())


def test_a_batch_whose_rows_belong_together_is_not_split():
    objective = tiny_objective(n=8)
    objective._task.paired = True  # of this task alone
    short_of_memory(objective, 4)
    with pytest.raises(MachineError, match="a batch of 8 rows that cannot be split") as caught:
        run(tiny_net(), objective, options())
    assert "lower train.batch_size" in str(caught.value)


def test_other_errors_pass():
    objective = tiny_objective(n=8)
    short_of_memory(objective, 4, error=RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(tiny_net(), objective, options())


def test_the_allocators_own_words_are_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    with pytest.raises(MemoryError) as numpys:
        np.empty(2**60, dtype=np.uint8)
    assert is_out_of_memory(numpys.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))
