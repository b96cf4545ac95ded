"""What a training can do to take less memory once its micro-batches cannot be made smaller, in this order."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.errors import OptionsError, Problem

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of `mallopt`, in malloc.h
_LARGE = 1 << 20
_LARGEST = 1 << 25  # what `mallopt` allows
_ALL = 1 << 30
_FEW = 0.1  # of the weights of a backbone

if TYPE_CHECKING:
    from torch import nn

    from regraft.models.net import Headed
    from regraft.models.recomputed import Recompute
    from regraft.models.slab import Slab
    from regraft.training.guard import Guard
    from regraft.training.offload import Offload
    from regraft.training.options import ComputeOptions


@dataclass
class Savings:
    """Two switches that change no bit of an update, and what is saved from the start.

    Args:
        recompute: Layers are computed again on the way back; None where they may not or cannot be.
        offload: The state of the optimiser lies in files; None where it may not or cannot.
        guard: Looks at what memory is free while a training runs; None where nobody does.
        slab: Where large tensors of a step lie, of a network that makes what is cheap again; None where nothing is.
        tight: Whether large blocks go back to the system at once.
    """

    recompute: Recompute | None = None
    offload: Offload | None = None
    guard: Guard | None = field(default=None, kw_only=True)
    slab: Slab | None = field(default=None, kw_only=True)
    tight: bool = field(default=False, kw_only=True)

    @property
    def recomputes(self) -> bool:
        """Whether layers are computed again."""
        return self.recompute is not None and self.recompute.on

    @property
    def offloads(self) -> bool:
        """Whether the state of the optimiser lies in files."""
        return self.offload is not None and self.offload.on

    def state(self) -> dict[str, bool]:
        """Return what is switched on, as JSON."""
        return {"recompute": self.recomputes, "offload": self.offloads}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Switch on what `state` says was on, where it is still allowed."""
        if self.recompute is not None:
            self.recompute.on |= bool(state.get("recompute"))
        if self.offload is not None:
            self.offload.on |= bool(state.get("offload"))

    def tighten(self) -> None:
        """Have memory that is free again go back to the system at once, in this process.

        GNU's allocator raises the size from which it does so to that of the largest block, and keeps what is smaller: where
        layers are computed again, blocks that stay lie between blocks that go, and a third of the memory was lost between them
        (`tests/unit/training/memory_turn.py`). Every block then costs its page faults: where what is cheap is made again it is
        not done unless memory is short. Other allocators are left as they are.
        """
        self.tight = _give_back(above=_LARGE, beyond=2 * _LARGE)
        if self.slab is not None:
            self.slab.release()
        _trim()

    def loosen(self) -> None:
        """Take `tighten` back."""
        if self.tight:
            self.tight = not _give_back(above=_LARGEST, beyond=2 * _LARGEST)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Have memory that is free stay for the next step, in this process, where what is cheap is made again.

        What GNU's allocator keeps follows the largest block that ever went. Here the large ones lie in the slab and never go,
        so that the end of the heap went back to the system and came again, page by page, many times a step. The peak is
        hardly higher (`bench/fit_memory.py`), and afterwards what is free goes back.
        """
        if self.slab is None or self.tight or not _give_back(above=_LARGEST, beyond=_ALL):
            yield
            return
        try:
            yield
        finally:
            if not self.tight:
                _give_back(above=_LARGEST, beyond=2 * _LARGEST)
            _trim()


def _give_back(above: int, beyond: int) -> bool:
    """Tell the allocator what goes back to the system as it becomes free, and return whether it listens.

    Args:
        above: Blocks larger than so many bytes.
        beyond: The end of the heap, where more than so many bytes of it are free.
    """
    try:
        tell = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(tell(_MMAP_THRESHOLD, above)) and bool(tell(_TRIM_THRESHOLD, beyond))


def _trim() -> None:
    """Give back what is free, where the allocator can."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def savings_of(options: ComputeOptions, net: Headed, trainable: Set[str], folder: Path) -> tuple[Headed, Savings]:
    """Return a view of a network that the switches act on, and the switches as they were asked for.

    Where next to nothing learns, what is kept for the way back is nearly all of the memory that training takes, and the way
    back is shorter, because no gradients of weights are made: there what is cheap is made again from the start. (On processors:
    what it costs on a GPU, where each small operation has to be started, has not been measured.)

    Args:
        options: What was asked for.
        net: The network that is about to learn; not changed.
        trainable: Names of the weights that learn.
        folder: Where files of the optimiser may lie.

    Raises:
        OptionsError: Something was asked for that this network or device cannot do.
    """
    from regraft.models.recomputed import Recompute, recomputable
    from regraft.models.slab import Slab
    from regraft.training.guard import Guard
    from regraft.training.offload import Offload

    problems, on_cpu = [], net.device.type == "cpu"
    recompute = None if options.recompute == "never" else Recompute(options.recompute == "always")
    if recompute is not None and recomputable(net, recompute) is net:
        recompute = None
        if options.recompute == "always":
            what, fix = "nothing can be computed again: what is trained has no layers", "leave it out"
            problems.append(Problem(what=what, where="machine.recompute", got="always", fix=fix))
    offload = None
    if options.offload != "never" and on_cpu:
        offload = Offload(folder)
        offload.on = options.offload == "always"
    elif options.offload == "always":
        what = "the state of an optimiser can lie in files only where weights are on the processor"
        problems.append(
            Problem(what=what, where="machine.offload", got=f"always, with weights on '{net.device.type}'", fix="leave it out")
        )
    if problems:
        raise OptionsError(problems)
    guard = Guard() if options.guard and on_cpu else None
    slab = Slab() if options.recompute != "never" and on_cpu and few_learn(net, trainable) else None
    savings = Savings(recompute, offload, guard=guard, slab=slab)
    return with_savings(net, savings), savings


def few_learn(net: Headed, trainable: Set[str]) -> bool:
    """Return whether of the weights of a backbone some learn, and less than a tenth."""
    sizes = {name: weight.numel() for name, weight in net.named_parameters() if name.startswith("backbone.")}
    return 0 < sum(size for name, size in sizes.items() if name in trainable) < _FEW * sum(sizes.values())


def with_savings(net: Headed, savings: Savings) -> Headed:
    """Return a view of a network that the switches act on, and that says which there are to whoever trains it."""
    from regraft.models.recomputed import recomputable
    from regraft.models.remade import remaking
    from regraft.models.view import with_children

    made = net if savings.recompute is None else recomputable(net, savings.recompute)
    made = made if savings.slab is None else remaking(made, savings.slab)
    twin = with_children(made, made._modules)
    twin.__dict__["savings"] = savings
    if savings.guard is not None:
        twin.__dict__["_forward_hooks"] = made._forward_hooks.copy()  # its own: the network itself is not watched
        guard = savings.guard
        twin.register_forward_hook(lambda *_: guard.look())
    return twin


def savings_in(net: nn.Module) -> Savings:
    """Return the savings that a network came with; none where nobody gave it any."""
    return getattr(net, "savings", None) or Savings()
