"""How much memory a training will take, found before its first step; what does not fit is split, saved on or refused.

    options = fitted(Demand(net=net, objective=objective, options=options, trainable=names, seed=0, validates=True), note)

Shapes: B rows of a micro-batch, N operations of a step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from regraft.errors import MachineError, Problem
from regraft.models.transform import running_buffers
from regraft.training import OPTIMIZERS
from regraft.training.cache.budget import free_memory_bytes
from regraft.training.memory_curve import Curve, curve, grown, padding_counts
from regraft.training.out_of_memory import SHORTER, is_out_of_memory
from regraft.training.savings import Savings
from regraft.training.seed import row_generator
from regraft.types import Batch

if TYPE_CHECKING:
    from regraft.models.net import Headed
    from regraft.objectives.objective import Objective
    from regraft.training.options import TrainOptions

_STATUS = Path("/proc/self/status")
_FEWEST_ROWS = 2  # a norm over a batch wants more than one row
_PART_OF_BATCH = 8
_MANY_OPERATIONS = 8000
_DUMMY = 32
_SPARED = 0.1  # of what is free: kernels take room inside themselves, which nobody sees


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The memory of a training at its peak, in bytes.

    Args:
        held: What the process holds now: libraries, weights, rows, features kept in memory; None where nobody says.
        gradients: Of the weights that learn.
        optimizer: State of the optimiser.
        snapshot: The best weights so far, where they are kept beside the network.
        activations: What the largest micro-batch takes beside the gradients.
        free: What may still be taken; None where nobody says.
        rows: Rows of that micro-batch.
        positions: Its positions, padding included where it is computed.
        offloaded: State of the optimiser that lies in files.

    Example:
        >>> one = Estimate(held=None, gradients=4, optimizer=8, snapshot=4, activations=9, free=20, rows=1, positions=1)
        >>> one.needed, one.fits
        (25, False)
    """

    held: int | None
    gradients: int
    optimizer: int
    snapshot: int
    activations: int
    free: int | None
    rows: int
    positions: int
    offloaded: int = 0

    @property
    def needed(self) -> int:
        """Bytes that training takes in addition to what is held now."""
        return self.gradients + self.optimizer + self.snapshot + self.activations

    @property
    def fits(self) -> bool:
        """Whether nine tenths of what is free are enough; true where nobody says how much that is."""
        return self.free is None or self.needed <= self.free * (1 - _SPARED)

    @property
    def peak(self) -> int:
        """Bytes that the process will hold at most."""
        return self.needed + (self.held or 0)

    def parts(self) -> dict[str, int]:
        """Return the parts by name, in the order in which they come into being."""
        held = {} if self.held is None else {"held now (libraries, weights, rows, kept features)": self.held}
        return {
            **held,
            f"activations of {self.size()}": self.activations,
            "gradients": self.gradients,
            "optimiser state": self.optimizer,
            "best weights": self.snapshot,
        }

    def size(self) -> str:
        """Return the size of the largest micro-batch, as people read it."""
        return f"{self.rows:,} row{'' if self.rows == 1 else 's'} of {self.positions:,} positions together"

    def sentence(self) -> str:
        """Return the estimate as one sentence."""
        parts = ", ".join(f"{name} {_mb(size)}" for name, size in self.parts().items() if size)
        free = "" if self.free is None else f"; {_mb(self.free)} are free"
        return f"memory: training takes about {_mb(self.needed)} more, {_mb(self.peak)} in all ({parts}){free}"

    def table(self) -> str:
        """Return the estimate as lines of parts and sums, in MB (10^6 bytes)."""
        rows = [*self.parts().items(), ("needed beside what is held now", self.needed)]
        rows += [] if self.free is None else [("free", self.free)]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"    {name:<{width}}  {_mb(size):>12}" for name, size in rows)


@dataclass(frozen=True, kw_only=True)
class Demand:
    """A training that is about to begin.

    Args:
        net: The network as it will be trained, in its number format.
        objective: Has its rows attached.
        options: Of the training.
        trainable: Names of the weights that learn.
        seed: Of the fit; draws the order of rows.
        validates: Whether the best weights are kept while training goes on.
        savings: What else can be done where micro-batches cannot be made smaller; `net` does it.
    """

    net: Headed
    objective: Objective
    options: TrainOptions
    trainable: Set[str]
    seed: int
    validates: bool
    savings: Savings = field(default_factory=Savings)


def fitted(demand: Demand, note: Callable[[str], None]) -> TrainOptions:
    """Return the options with a micro-batch that fits into memory; those that were given where nothing is short.

    The update stays that of the whole batch, because gradients add up over micro-batches; only statistics that a network
    takes over a micro-batch (batch norm in training) are of fewer rows. Where one row, or a batch that cannot be split, does
    not fit, layers are computed again on the way back; where that is not enough, the state of the optimiser lies in files.

    Args:
        demand: What is about to be trained. Its weights, buffers, gradients and random states are as before; its savings are
            switched on where they are needed.
        note: Told the estimate in one sentence, and in others what was made smaller.

    Raises:
        MachineError: Not even one row a forward pass fits, or the batch cannot be split.
    """
    options = demand.options
    if not options.rounds:
        return options
    wanted: Estimate | None = None
    refusals: list[Problem] = []
    for _ in _ways(demand.savings):
        try:
            forecast = Forecast(demand)
            first = forecast.at(forecast.micro_batch_size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            refusals.append(_no_room(demand, f"a pass over {_FEWEST_ROWS} rows ended with: {error}"))
            continue
        wanted = wanted or first
        if problem := _no_files(demand, first.offloaded):
            refusals.append(problem)
            continue
        rows, estimate = _fitting(forecast, first)
        if estimate.fits:
            break
        refusals.append(_no_room(demand, f"an estimate of\n{estimate.table()}"))
    else:
        raise MachineError(list({problem.what: problem for problem in refusals}.values()))
    note(estimate.sentence())
    fewer = rows if rows != forecast.micro_batch_size else None
    if fewer is not None or demand.savings.recomputes or demand.savings.offloads:
        demand.savings.tighten()
    for text in _told(demand, estimate, wanted, fewer):
        note(text)
    return options if fewer is None else dataclasses.replace(options, micro_batch_size=fewer)


def _no_files(demand: Demand, size: int) -> Problem | None:
    """Return why the state of the optimiser cannot lie in files, where it is to."""
    offload = demand.savings.offload
    why = offload.refusal(size) if offload is not None and offload.on else ""
    if not why:
        return None
    fix = "free some room there, choose an --out on another disk, or leave machine.offload out"
    return Problem(what="the state of the optimiser cannot lie in files", where="machine.offload", got=why, fix=fix)


def _fitting(forecast: Forecast, estimate: Estimate) -> tuple[int, Estimate]:
    """Return the rows that are wanted a forward pass, halved until they fit, and their estimate."""
    rows = forecast.micro_batch_size
    while not estimate.fits and rows > 1 and forecast.demand.objective.divisible:
        rows //= 2
        estimate = forecast.at(rows)
    return rows, estimate


def _ways(savings: Savings) -> Iterator[None]:
    """Switch savings on, one way after the other: none but those that were asked for, then each, then both."""
    recomputes, offloads = (
        [True] if switch is not None and switch.on else [False] if switch is None else [False, True]
        for switch in (savings.recompute, savings.offload)
    )
    for offload in offloads:
        for recompute in recomputes:
            if savings.recompute is not None:
                savings.recompute.on = recompute
            if savings.offload is not None:
                savings.offload.on = offload
            yield


def _told(demand: Demand, estimate: Estimate, wanted: Estimate, fewer: int | None) -> Iterator[str]:
    """Yield a sentence for each thing that was done because memory is short."""
    instead = f", which would have taken {_mb(wanted.needed)}"
    if fewer is not None:
        yield (
            f"a forward pass sees {fewer:,} rows instead of {wanted.rows:,}{instead}: updates are still those of "
            f"{demand.options.batch_size:,} rows"
        )
    if demand.savings.recomputes:
        yield "layers are computed a second time on the way back (machine.recompute): the same numbers, about a third more time"
    if demand.savings.offload is not None and demand.savings.offloads:
        yield (
            f"the state of the optimiser, {_mb(estimate.offloaded)}, lies in files in '{demand.savings.offload.folder}' "
            "(machine.offload): the same numbers, as fast as that disk"
        )


def _no_room(demand: Demand, got: str) -> Problem:
    options, divisible = demand.options, demand.objective.divisible
    what = "one row a forward pass" if divisible else f"a batch of {options.batch_size:,} rows, which cannot be split,"
    return Problem(
        what=f"there is not enough memory to train this network with {what}",
        where="before the first step",
        got=got,
        expected="no more than nine tenths of what is free",
        fix=("" if divisible else "lower train.batch_size, ") + SHORTER,
    )


class Forecast:
    """Watch a step over a few rows, and say what a step over others takes.

    Args:
        demand: What is about to be trained.
    """

    def __init__(self, demand: Demand) -> None:
        self.demand = demand
        options = demand.options
        self.micro_batch_size = min(options.micro_batch_size or options.batch_size, options.batch_size)
        self.weights = [weight for name, weight in demand.net.named_parameters() if name in demand.trainable]
        self.few, self.more, self.padded = self._watched()

    @cached_property
    def optimizer_bytes(self) -> int:
        """Bytes of the optimiser's state."""
        return optimizer_bytes(self.demand.options, self.weights)

    def at(self, rows: int) -> Estimate:
        """Return the estimate for so many rows a forward pass, at the longest of them that the training will meet."""
        demand, options = self.demand, self.demand.options
        batch = self._largest(rows, padded=self.padded)
        size = int(batch.mask_BT.size if self.padded else batch.mask_BT.sum())
        activations_N = grown(self.few, self.more, size, padded=self.padded)
        gradients = self.more.gradients
        if rows < min(options.batch_size, demand.objective.rows_per_epoch()):
            # From the second micro-batch on all gradients are there from the start, and each is made once more to be added.
            peak = float(activations_N.max()) + self.more.largest_gradient
        else:
            peak = max(0.0, float((activations_N + self.more.gradients_N).max()) - gradients)
        inputs = sum(array.nbytes for array in batch.inputs.values()) * options.batch_size // rows
        on_gpu, offloads = demand.net.device.type == "cuda", demand.savings.offloads
        return Estimate(
            held=_held_bytes(demand.net.device),
            gradients=gradients,
            optimizer=0 if offloads else self.optimizer_bytes,
            offloaded=self.optimizer_bytes if offloads else 0,
            snapshot=_snapshot_bytes(demand.net, self.weights) if demand.validates and not on_gpu else 0,
            activations=round(peak) + (0 if on_gpu else inputs),
            free=_free_bytes(demand.net.device),
            rows=batch.size,
            positions=size,
        )

    def _largest(self, rows: int, *, padded: bool) -> Batch:
        demand, options = self.demand, self.demand.options
        epochs = options.rounds
        if options.max_steps is not None:
            epochs = min(epochs, -(-options.max_steps // demand.objective.steps_per_epoch(options.batch_size)))
        rngs = (row_generator(demand.seed, epoch) for epoch in range(epochs))
        return demand.objective.largest(options.batch_size, rows, rngs, padded=padded)

    def _watched(self) -> tuple[Curve, Curve, bool]:
        """Return a step over a few rows, one over more of them, and whether memory grows with padding."""
        demand, batch = self.demand, self._largest(self.micro_batch_size, padded=True)
        more_rows = min(batch.size, max(2 * _FEWEST_ROWS, -(-batch.size // _PART_OF_BATCH)))
        few_rows = min(batch.size, max(_FEWEST_ROWS, more_rows // 2))
        # From the longest row to the shortest, so that real and padded positions do not grow alike.
        spread = np.linspace(0, batch.size - 1, more_rows).round().astype(np.int64)
        some = [demand.objective.part(batch, spread[:rows]) for rows in (few_rows, more_rows)]
        few = self._curve(some[0])
        if few_rows == more_rows:
            return few, few, True
        free = _free_bytes(demand.net.device)
        expected = few.gradients + float(few.activations_N.max()) * more_rows / few_rows
        if len(few.made_N) > _MANY_OPERATIONS or (free is not None and expected > free):
            # Watching costs by the operation: a network that takes positions one after the other is watched once.
            forward = [self._curve(part, backward=False) for part in some]
            return few, few, padding_counts(*forward)
        more = self._curve(some[1])
        return few, more, padding_counts(few, more)

    def _curve(self, batch: Batch, *, backward: bool = True) -> Curve:
        objective, names = self.demand.objective, self.demand.trainable
        return curve(self.demand.net, lambda net, given: objective.loss(net, given)[0].total, batch, names, backward=backward)


def optimizer_bytes(options: TrainOptions, weights: Sequence[torch.nn.Parameter]) -> int:
    """Return the bytes of the state that an optimiser will hold, as it says or as steps over small copies show.

    Args:
        options: Name the optimiser.
        weights: Weights that learn.
    """
    cls, chosen = options.optimizer.resolve(OPTIMIZERS)
    shares: dict[tuple[tuple[int, ...], torch.dtype], float] = {}
    total = 0.0
    for weight in weights:
        said = cls(chosen).state_bytes(tuple(weight.shape), weight.element_size())
        if said is not None:
            total += said
            continue
        shape = tuple(min(size, _DUMMY) for size in weight.shape)
        key = (shape, weight.dtype)
        if key not in shares:
            dummy = torch.nn.Parameter(torch.zeros(shape, dtype=weight.dtype, device=weight.device))
            dummy.grad = torch.zeros_like(dummy)
            optimizer = cls(chosen).build([{"params": [dummy], "lr": 0.0, "peak": 0.0, "weight_decay": 0.0}])
            optimizer.step()
            state = [value for value in optimizer.state[dummy].values() if isinstance(value, torch.Tensor) and value.ndim]
            shares[key] = sum(map(_bytes, state)) / max(1, _bytes(dummy))
        total += shares[key] * _bytes(weight)
    return round(total)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _snapshot_bytes(net: Headed, weights: Sequence[torch.nn.Parameter]) -> int:
    return sum(map(_bytes, weights)) + sum(_bytes(buffer) for _, buffer in running_buffers(net))


def _free_bytes(device: torch.device) -> int | None:
    if device.type != "cuda":
        return free_memory_bytes()
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _held_bytes(device: torch.device, status: Path = _STATUS) -> int | None:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), None)
    except (OSError, ValueError, IndexError):
        return None


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 10_000_000 else f"{size / 1e6:,.0f} MB"
