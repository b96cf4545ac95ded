"""Memory that is nearly used up is noticed before the kernel ends the process, and costs nothing while there is enough."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from tiny_net import tiny_net, tiny_objective

from regraft.errors import MachineError
from regraft.options import build
from regraft.training.cache.budget import free_memory_bytes
from regraft.training.checkpoint import State
from regraft.training.events import NoteEvent, StepEvent
from regraft.training.guard import EVERY_S, LEAST_BYTES, Guard, NearlyOutError
from regraft.training.loop import NOTHING, train
from regraft.training.options import TrainOptions
from regraft.training.savings import Savings, with_savings
from regraft.tuning.full import Full, FullOptions

GB = 10**9
FULL = Full(FullOptions())


class Machine:
    """Memory and time as a test wants them."""

    def __init__(self, *free, cost_s=0.0):
        self.free, self.now, self.cost_s, self.looks, self.slept = list(free), 0.0, cost_s, 0, 0.0

    def look(self):
        self.looks += 1
        self.now += self.cost_s
        return self.free.pop(0) if len(self.free) > 1 else self.free[0]

    def sleep(self, seconds):
        self.slept += seconds
        self.now += seconds

    def guard(self):
        made = Guard(self.look, lambda: self.now, self.sleep)
        made.armed = True
        return made


def test_what_is_kept_back():
    for first, kept in ((100 * GB, 2 * GB), (GB, LEAST_BYTES)):
        machine = Machine(first)
        guard = machine.guard()
        guard.look()
        assert guard.kept_back == kept
        machine.free, machine.now = [kept], machine.now + 1
        guard.look()
        machine.free, machine.now = [kept - 1], machine.now + 1
        with pytest.raises(NearlyOutError, match=f"below {kept / 1e6:,.0f} MB the system may end the process"):
            guard.look()


def test_a_moment_is_not_enough():
    machine = Machine(100 * GB, 1, 50 * GB)
    guard = machine.guard()
    guard.look()
    machine.now += 1
    guard.look()
    assert machine.looks == 3
    assert machine.slept > 0


@pytest.mark.parametrize("cost_s", [0.0, 0.001, 0.01])
def test_looking_takes_a_two_thousandth_of_the_time(cost_s):
    machine = Machine(100 * GB, cost_s=cost_s)
    guard = machine.guard()
    for _ in range(100_000):
        guard.look()
        machine.now += 0.01
    assert machine.looks <= machine.now / EVERY_S + 1
    assert machine.looks * cost_s <= machine.now / 2000 + cost_s
    assert machine.looks > 40


def test_where_nobody_says_or_it_is_not_armed_nothing_happens():
    machine = Machine(None)
    guard = machine.guard()
    for _ in range(10):
        guard.look()
        machine.now += 100
    assert machine.looks == 1
    machine = Machine(0)
    guard = machine.guard()
    guard.armed = False
    guard.look()
    assert machine.looks == 0


def test_a_look_at_this_machine_is_quick():
    guard = Guard()
    guard.armed = True
    guard.look()
    began = time.perf_counter()
    for _ in range(1000):
        guard.look()
    assert time.perf_counter() - began < 0.5


def fit(guard, keeper=NOTHING, **values):
    given = build(TrainOptions, {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "dropout": 0.0, **values})
    net = tiny_net()
    run = with_savings(net, Savings(guard=guard))
    assert not net._forward_hooks
    return net, train(run, tiny_objective(n=16), FULL, given, seed=3, keeper=keeper)


def test_a_step_is_done_again_in_smaller_pieces():
    # The first look begins, in the second step there is too little until micro-batches are of 4 rows.
    machine = Machine(100 * GB, 1, 1, 100 * GB)
    guard = Guard(machine.look, lambda: machine.now, machine.sleep)
    _, events = fit(guard)
    found = []
    for event in events:
        found.append(event)
        machine.now += 1
    (note,) = (event.text for event in found if isinstance(event, NoteEvent))
    assert "nearly out of memory in step 2 of 4: a forward pass sees 4 instead of 8 rows from here on" in note
    wanted = [event.loss for event in fit(None)[1] if isinstance(event, StepEvent)]
    assert [event.loss for event in found if isinstance(event, StepEvent)] == pytest.approx(wanted, abs=1e-6)
    assert not guard.armed


class Kept:
    def __init__(self):
        self.states: list[State] = []

    def begin(self):
        return None

    def due(self, step):
        return False

    def keep(self, state):
        self.states.append(State(state.step, {name: value.clone() for name, value in state.tensors.items()}, state.facts))


def test_in_the_end_what_was_learnt_is_kept_and_it_stops():
    machine = Machine(100 * GB, 100 * GB, 1)
    guard, keeper = Guard(machine.look, lambda: machine.now, machine.sleep), Kept()
    net, events = fit(guard, keeper, epochs=5)
    learnt, notes = {}, []

    def follow():
        for event in events:
            if isinstance(event, StepEvent):
                learnt.update({name: weight.detach().clone() for name, weight in net.named_parameters()})
            elif isinstance(event, NoteEvent):
                notes.append(event.text)
            machine.now += 1  # between two looks there is time for others to give memory back

    with pytest.raises(MachineError) as caught:
        follow()
    assert [note.split(":")[0] for note in notes] == [f"nearly out of memory in step {step} of 10" for step in (3, 4, 5)]
    text = str(caught.value)
    for part in ("nearly out of memory over a single row", "step 6 of 10", "MB of memory are free; below", "larger machine"):
        assert part in text
    (state,) = keeper.states
    assert state.step == 5
    assert all(torch.equal(state.tensors[f"weights.{name}"], value) for name, value in learnt.items())


def test_pages_of_files_count_as_free_at_the_worst(tmp_path: Path):
    meminfo, membership, group = tmp_path / "meminfo", tmp_path / "cgroup", tmp_path / "cgroups"
    meminfo.write_text("MemAvailable: 9000000 kB\n")
    group.mkdir()
    (group / "memory.max").write_text("1000000000\n")
    (group / "memory.current").write_text("990000000\n")
    (group / "memory.stat").write_text("inactive_file 5000000\nactive_file 700000000\n")
    membership.write_text("0::/\n")
    assert free_memory_bytes(meminfo, membership, group) == 15_000_000
    assert free_memory_bytes(meminfo, membership, group, at_worst=True) == 715_000_000
