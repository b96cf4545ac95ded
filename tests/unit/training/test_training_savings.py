"""Layers computed again, and the optimiser's state in files: the same bits in less memory, when one row is still too much."""

from __future__ import annotations

import errno
import os
import platform
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from frozen_net import frozen_net, number_rows
from tiny_net import Numbers, tiny_net

from regraft.errors import MachineError, OptionsError
from regraft.modalities.encoded import EncodedRows
from regraft.models.recomputed import Recompute
from regraft.models.slab import Slab
from regraft.objectives.supervised import Supervised, SupervisedOptions
from regraft.options import build
from regraft.tasks.classification import Classification, ClassificationOptions
from regraft.training import memory as memory_module
from regraft.training import offload as offload_module
from regraft.training.checkpoint import State, captured, put_into
from regraft.training.events import NoteEvent, StepEvent
from regraft.training.loop import train
from regraft.training.memory import Demand, Forecast, fitted
from regraft.training.offload import Offload
from regraft.training.optimizers import AdamW, AdamWOptions
from regraft.training.options import ComputeOptions, TrainOptions
from regraft.training.savings import Savings, savings_of, with_savings
from regraft.tuning.full import Full, FullOptions
from regraft.types import Ledger

FULL = Full(FullOptions())


def objective(count=24, **options):
    raws, labels = number_rows(count, longest=12)
    task = Classification(ClassificationOptions(**options))
    task.learn([str(label) for label in labels], Ledger())
    return Supervised(SupervisedOptions()).attach(EncodedRows(Numbers(), [raws]), task.targets([str(x) for x in labels]), task)


def options(**values) -> TrainOptions:
    return build(TrainOptions, {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "dropout": 0.0, **values})


def fit(net, rows, savings=None, **values):
    events = list(train(with_savings(net, savings or Savings()), rows, FULL, options(**values), seed=3))
    return [event for event in events if isinstance(event, StepEvent)], [e.text for e in events if isinstance(e, NoteEvent)]


def same_weights(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def short(rows, until, error=MemoryError):
    """Let an objective run out of memory, after the loss is computed, until something is done; returns what was done by then."""
    honest, seen = rows.loss, []

    def loss(net, batch):
        found = honest(net, batch)
        if not until(net, batch):
            seen.append(batch.size)
            raise error()
        return found

    rows.loss = loss
    return seen


@pytest.mark.parametrize("paired", [False, True])
def test_where_a_batch_cannot_be_smaller_layers_are_computed_again(tmp_path, paired):
    """Where nothing is split also in a network with dropout: the second pass drops what the first did."""
    plain, saving = (frozen_net(dropout=0.3 if paired else 0.0) for _ in range(2))
    whole, scarce = objective(), objective()
    for rows in (whole, scarce):
        rows._task.paired = paired
    savings = Savings(Recompute())
    seen = short(scarce, lambda net, batch: net.savings.recomputes)
    found, notes = fit(saving, scarce, savings)
    wanted, _ = fit(plain, whole, micro_batch_size=None if paired else 1)
    assert seen == ([8] if paired else [8, 4, 2, 1])
    assert savings.recomputes
    assert savings.tight == (sys.platform == "linux")
    savings.loosen()
    assert not savings.tight
    assert [e.loss for e in found] == pytest.approx([e.loss for e in wanted], abs=0 if paired else 1e-6)
    if paired:
        assert same_weights(plain, saving)
    assert "out of memory in step 1 of 6: layers are computed a second time on the way back" in notes[-1]


def test_after_that_the_state_of_the_optimiser_moves_into_files(tmp_path):
    plain, saving = frozen_net(dropout=0.3), frozen_net(dropout=0.3)
    scarce = objective()
    savings = Savings(Recompute(), Offload(tmp_path))
    steps = iter(range(99))
    short(scarce, lambda net, batch: next(steps) < 2 or net.savings.offloads)
    scarce._task.paired = True
    found, notes = fit(saving, scarce, savings)
    wanted, _ = fit(plain, objective())
    assert [e.loss for e in found] == [e.loss for e in wanted]
    assert same_weights(plain, saving)
    assert [note.split(": ")[0] for note in notes] == ["out of memory in step 3 of 6"] * 2
    assert f"the state of the optimiser lies in files in '{tmp_path}' from here on" in notes[1]
    assert savings.offload.size_bytes > 0
    assert list(tmp_path.iterdir()) == []


def test_then_it_ends():
    scarce = objective()
    seen = short(scarce, lambda net, batch: False)
    with pytest.raises(MachineError, match="out of memory over a single row"):
        fit(frozen_net(), scarce, Savings(Recompute()))
    assert seen == [8, 4, 2, 1, 1]


@pytest.mark.parametrize("kind", ["bert", "regraft-lstm", "t5"])
@pytest.mark.parametrize("micro", [None, 3])
def test_state_in_files_gives_the_same_bits(tmp_path, monkeypatch, kind, micro):
    monkeypatch.setattr(offload_module, "_PAGE", 1)
    plain, saving = frozen_net(kind, dropout=0.2), frozen_net(kind, dropout=0.2)
    offload = Offload(tmp_path)
    offload.on = True
    wanted, _ = fit(plain, objective(), micro_batch_size=micro)
    found, _ = fit(saving, objective(), Savings(None, offload), micro_batch_size=micro)
    assert [(e.loss, e.gradient_norm) for e in found] == [(e.loss, e.gradient_norm) for e in wanted]
    assert same_weights(plain, saving)
    assert offload.size_bytes == 2 * sum(weight.nbytes for weight in saving.parameters())


def stepped(optimizer, weights, steps, step=None):
    for number in range(steps):
        generator = torch.Generator().manual_seed(number)
        for place, weight in enumerate(weights):
            # The last weight gets its first gradient in the third step.
            weight.grad = None if place == 2 and number < 2 else torch.randn(weight.shape, generator=generator)
        (step or optimizer.step)()


def weights():
    generator = torch.Generator().manual_seed(5)
    shapes = [(60, 50), (7,), (16, 32, 3, 3)]
    found = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    found[2].data = found[2].data.contiguous(memory_format=torch.channels_last)
    return found


def build_of(kind, some):
    groups = [{"params": some, "lr": 1e-2, "weight_decay": 0.1}]
    return AdamW(AdamWOptions()).build(groups) if kind == "adamw" else torch.optim.SGD(groups, momentum=0.9)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_updates_state_and_checkpoints_are_those_of_the_optimiser_itself(tmp_path, kind):
    plain, held, resumed = weights(), weights(), weights()
    one, other, third = (build_of(kind, some) for some in (plain, held, resumed))
    offload, again = Offload(tmp_path), Offload(tmp_path)
    offload.hold(other)
    stepped(one, plain, 4)
    stepped(other, held, 4, lambda: offload.step(other))
    assert all(map(torch.equal, plain, held))
    for weight in held:
        files = [value.untyped_storage().filename for value in other.state[weight].values() if value.ndim]
        assert [name is None for name in files] == [weight.nbytes < 4096] * len(files)
    assert list(tmp_path.iterdir()) == []
    nets = [torch.nn.ParameterList(some) for some in (plain, held, resumed)]
    names = {name for name, _ in nets[0].named_parameters()}
    tensors, facts = captured(nets[1], names, other)
    wanted, _ = captured(nets[0], names, one)
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    kept = {name: value.clone() for name, value in tensors.items()}
    again.hold(third)
    put_into(nets[2], names, third, State(4, kept, {}), facts)
    assert again.size_bytes == offload.size_bytes
    stepped(one, plain, 3)
    stepped(third, resumed, 3, lambda: again.step(third))
    assert all(map(torch.equal, plain, resumed))
    assert all(value.stride() == resumed[2].stride() for value in third.state[resumed[2]].values() if value.ndim)


def test_what_is_there_moves_when_it_has_to(tmp_path):
    plain, held = weights(), weights()
    one, other = build_of("adamw", plain), build_of("adamw", held)
    offload = Offload(tmp_path)
    stepped(one, plain, 6)
    stepped(other, held, 3)
    offload.hold(other)
    assert offload.size_bytes == 2 * (held[0].nbytes + held[2].nbytes)
    for number in range(3, 6):
        generator = torch.Generator().manual_seed(number)
        for weight in held:
            weight.grad = torch.randn(weight.shape, generator=generator)
        offload.step(other)
    assert all(map(torch.equal, plain, held))


def test_a_process_that_is_killed_leaves_no_file_and_takes_its_room_with_it(tmp_path):
    code = f"""
    import sys, time, torch
    from pathlib import Path
    from regraft.training.offload import Offload
    kept = [Offload(Path({str(tmp_path)!r})).like(torch.empty(1000, 1000)).fill_(1.0) for _ in range(3)]
    print("held", flush=True)
    sys.stdin.read()
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "held\n"
    assert list(tmp_path.iterdir()) == []
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_before_a_number_is_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        Offload(tmp_path).like(torch.empty(1000, 1000))
    assert list(tmp_path.iterdir()) == []


def test_where_room_cannot_be_reserved_it_is_written(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", none)
    assert float(Offload(tmp_path).like(torch.empty(1000, 700)).abs().sum()) == 0.0


def test_where_files_cannot_lie(tmp_path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / {tmp_path} rw shared:1 - tmpfs none rw\n")
    assert "lies in memory itself (tmpfs)" in Offload(tmp_path / "in").refusal(1, mounts)
    mounts.write_text("1 0 0:1 / / rw - ext4 /dev/a rw\n")
    assert Offload(tmp_path).refusal(1, mounts) == ""
    assert "MB are free where" in Offload(tmp_path).refusal(10**18, mounts)
    assert Offload(tmp_path).refusal(1, tmp_path / "none") == ""


def demand(net, savings, **values) -> Demand:
    names = {name for name, _ in net.named_parameters()}
    saving = with_savings(net, savings)
    given = options(**{"epochs": 1, **values})
    return Demand(net=saving, objective=objective(), options=given, trainable=names, seed=0, validates=True, savings=savings)


def big(dropout=0.1):
    return frozen_net(dropout=dropout)


def needed(**switches):
    savings = Savings(Recompute(on=switches.get("recompute", False)), Offload(Path("/")))
    savings.offload.on = switches.get("offload", False)
    asked = demand(big(), savings, batch_size=16)
    return {rows: Forecast(asked).at(rows).needed for rows in (16, 8, 4, 2, 1)}


def test_the_estimate_knows_what_is_saved(tmp_path, monkeypatch):
    plain, again, both = needed(), needed(recompute=True), needed(recompute=True, offload=True)
    assert plain[16] > again[16] > both[16]
    assert plain[1] > again[1] > both[1]
    for free, rows, recomputes, offloads in (
        (plain[16], None, False, False),
        (plain[1], 1, False, False),
        (again[1], 1, True, False),
        (both[1], 1, True, True),
    ):
        monkeypatch.setattr(memory_module, "free_memory_bytes", lambda free=free: free * 10 // 9 + 1)
        savings, notes = Savings(Recompute(), Offload(tmp_path)), []
        chosen = fitted(demand(big(), savings, batch_size=16), notes.append)
        assert (chosen.micro_batch_size, savings.recomputes, savings.offloads) == (rows, recomputes, offloads)
        assert any("computed a second time on the way back" in note for note in notes) == recomputes
        assert any("lies in files in" in note for note in notes) == offloads
        assert any("instead of 16, which would have taken" in note for note in notes) == (rows is not None)
    monkeypatch.setattr(memory_module, "free_memory_bytes", lambda: both[1] // 2)
    with pytest.raises(MachineError, match="not enough memory to train this network with one row a forward pass"):
        fitted(demand(big(), Savings(Recompute(), Offload(tmp_path)), batch_size=16), lambda _: None)


def test_what_was_asked_for_is_on_from_the_start(tmp_path):
    savings, notes = Savings(Recompute(on=True), Offload(tmp_path)), []
    savings.offload.on = True
    chosen = fitted(demand(big(), savings), notes.append)
    assert chosen.micro_batch_size is None
    assert (savings.recomputes, savings.offloads) == (True, True)
    assert len(notes) == 3
    savings.offload.folder = Path("/dev/shm")
    if sys.platform == "linux":
        with pytest.raises(MachineError, match=r"cannot lie in files(.|\n)*machine.offload(.|\n)*lies in memory itself"):
            fitted(demand(big(), savings), lambda _: None)


def test_options_become_switches(tmp_path):
    net = frozen_net()

    def made(**values):
        return savings_of(build(ComputeOptions, values), net, set(), tmp_path)[1]

    assert [made(recompute=wish).recompute for wish in ("auto", "always", "never")] == [Recompute(), Recompute(on=True), None]
    assert [made(offload=wish).offloads for wish in ("auto", "always")] == [False, True]
    assert made(offload="never").offload is None
    assert made(guard=False).guard is None
    assert made().guard is not None
    with pytest.raises(OptionsError, match=r"what is trained has no layers(.|\n)*machine.recompute"):
        savings_of(build(ComputeOptions, {"recompute": "always"}), tiny_net(), set(), tmp_path)
    assert savings_of(build(ComputeOptions, {}), tiny_net(), set(), tmp_path)[1].recompute is None


def test_what_is_cheap_is_made_again_where_little_learns(tmp_path):
    net = frozen_net()
    sizes = {name: weight.numel() for name, weight in net.named_parameters()}
    biases = {name for name in sizes if name.startswith("backbone.") and name.endswith(".bias")}
    assert sum(sizes[name] for name in biases) < 0.1 * sum(sizes.values())

    def slab(names, **values):
        view, savings = savings_of(build(ComputeOptions, values), net, names, tmp_path)
        assert type(view.backbone).__name__.startswith("Remaking") == (savings.slab is not None)
        return savings.slab

    assert slab(biases) is not None
    assert slab(biases | {"head.linear.weight"}) is not None
    assert slab(biases, recompute="never") is None
    assert slab(set(sizes)) is None
    assert slab({name for name in sizes if name.startswith("head.")}) is None


def test_memory_of_the_slab_goes_back_where_memory_is_short(tmp_path):
    savings = savings_of(build(ComputeOptions, {}), frozen_net(), {"backbone.body.embeddings.LayerNorm.bias"}, tmp_path)[1]
    held = savings.slab.empty(torch.Size((512, 512)))
    assert savings.slab._pieces
    savings.tighten()
    savings.loosen()
    assert not savings.slab._pieces
    assert held.fill_(1.0).sum() == 512 * 512


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left as they are")
def test_large_blocks_go_back_at_once_where_memory_is_short():
    for savings, tight in ((Savings(slab=Slab()), False), (Savings(), False), (Savings(Recompute(on=True)), True)):
        fitted(demand(frozen_net(), savings), lambda _: None)
        assert savings.tight == tight
        savings.loosen()
        assert not savings.tight


def test_what_was_switched_on_stays_on_in_a_training_that_goes_on(tmp_path):
    from regraft.training.out_of_memory import Spare

    net = frozen_net()
    savings = Savings(Recompute(), Offload(tmp_path))
    optimizer = build_of("adamw", list(net.parameters()))
    spare = Spare(objective(), with_savings(net, savings), optimizer)
    assert spare.state() == {"rows": None, "recompute": False, "offload": False}
    spare.put_back({"rows": 2, "recompute": True, "offload": True})
    assert spare.state() == {"rows": 2, "recompute": True, "offload": True}
    refused = Spare(objective(), with_savings(net, Savings()), optimizer)
    refused.put_back({"rows": 2, "recompute": True, "offload": True})
    assert refused.state() == {"rows": 2, "recompute": False, "offload": False}


_FAULTS = """
import ctypes, resource, sys
from pathlib import Path
import torch
from regraft.models.slab import Slab
from regraft.training.savings import Savings

torch.set_num_threads(1)
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: one fault a page, wherever huge ones are given unasked

def step():
    held = [torch.empty(400_000).fill_(1.0) for _ in range(30)]  # 48 MB in blocks of 1.6 MB
    return sum(float(one[0]) for one in held)

def faults():
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def held_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

plain = faults()
savings = Savings(slab=Slab())
with savings.holding():
    held, most = faults(), held_mb()
    if sys.argv[1] == "tight":
        savings.tighten()
        assert held_mb() < most - 40, (held_mb(), most)
left = held_mb()
assert plain > 4 * 10_000 and held < 4_000, (plain, held)
assert left < most - 40, (left, most)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left as they are")
@pytest.mark.parametrize("how", ["plenty", "tight"])
def test_memory_stays_for_the_next_step_and_goes_back_afterwards(how):
    # Or it would depend on where the heap happens to end what the allocator gives back by itself.
    where = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    done = subprocess.run([sys.executable, "-c", _FAULTS, how], env=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
