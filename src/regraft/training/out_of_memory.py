"""Out of memory in the middle of a step: the same step again, in smaller pieces.

spare = Spare(objective, net, optimizer)
batches, found = spare.run(step, batches, "step 17 of 200")     step(batches), as often as it takes
spare.step()                                                    optimizer.step(), its state where there is room
spare.told()                                                    what had to be made smaller

First a forward pass sees fewer rows, down to one; then layers are computed again on the way back; then the state of the
optimiser moves into files. None of it changes an update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from regraft.errors import MachineError, Problem
from regraft.training.guard import NearlyOutError
from regraft.training.savings import savings_in

if TYPE_CHECKING:
    import torch
    from torch import nn

    from regraft.objectives.objective import Objective
    from regraft.types import Batch

FoundT = TypeVar("FoundT")

SHORTER = (
    "shorten the rows (modality.max_length), let fewer weights learn (--tuning lora or head), end what else holds memory, or "
    "take a larger machine"
)
_OF_THE_CPU = ("DefaultCPUAllocator", "not enough memory", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that there is no more memory, on a GPU or on the processor.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes do not match"))
        (True, False)
    """
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OF_THE_CPU)


class Spare:
    """Take the gradients of a step, and take them again over fewer rows a forward pass when memory runs out.

    The same rows go through in the same order with the same seed, so that the update is that of a run with as much memory as it
    wants, up to the order of sums. Two things are not the same: dropout is drawn for tensors of other shapes, and statistics
    over a micro-batch (batch norm in training) are of fewer rows. Later steps begin with the smaller micro-batch.

    Args:
        objective: Makes micro-batches smaller.
        net: The network, while it learns; says in `savings` what else can be done.
        optimizer: Of its weights.

    `buffers` are the running statistics of modules that learn. `most_rows` is what a forward pass sees at most once memory ran
    out, else None.
    """

    def __init__(self, objective: Objective, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._objective, self._net, self._optimizer = objective, net, optimizer
        self._savings = savings_in(net)
        if self._savings.offload is not None and self._savings.offload.on:
            self._savings.offload.hold(optimizer)
        self.buffers = [buffer for module in net.modules() if module.training for buffer in module.buffers(recurse=False)]
        self.most_rows: int | None = None
        self._notes: list[str] = []

    def state(self) -> dict[str, Any]:
        """Return what was made smaller so far, as JSON: part of the state of training."""
        return {"rows": self.most_rows, **self._savings.state()}

    def put_back(self, state: Mapping[str, Any]) -> None:
        """Take what `state` gave; what is not allowed any more stays off."""
        self.most_rows = state["rows"]
        self._savings.resume(state)
        if self._savings.offload is not None and self._savings.offload.on:
            self._savings.offload.hold(self._optimizer)

    def step(self) -> None:
        """Let the optimiser do one update.

        Raises:
            OSError: Its state lies in files, and there is no room for them.
        """
        if self._savings.offload is not None and self._savings.offload.on:
            self._savings.offload.step(self._optimizer)
        else:
            self._optimizer.step()

    def told(self) -> list[str]:
        """Return a sentence for each time that memory ran out since this was asked."""
        notes, self._notes = self._notes, []
        return notes

    def run(
        self, step: Callable[[Sequence[Batch]], FoundT], batches: Sequence[Batch], where: str
    ) -> tuple[Sequence[Batch], FoundT]:
        """Return the micro-batches that fitted, and what a step made of them.

        Args:
            step: Computes gradients of micro-batches; draws the same random numbers whenever it is called.
            batches: Micro-batches of an update.
            where: Which update, as people read it.

        Raises:
            MachineError: Memory ran out, and micro-batches cannot be made smaller.
        """
        if self.most_rows is not None:
            batches = self._objective.split(batches, self.most_rows)
        while True:
            before = [buffer.detach().clone() for buffer in self.buffers]
            try:
                with self._guarded():
                    return batches, step(batches)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                what = "nearly out of memory" if isinstance(error, NearlyOutError) else "out of memory"
                said = str(error) or type(error).__name__
            # Not in the handler: the error holds what the step has made so far.
            self._put_back(before)
            batches = self._smaller(batches, (what, said), where)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        guard = self._savings.guard
        if guard is None:
            yield
            return
        guard.armed = True
        try:
            yield
        finally:
            guard.armed = False

    def _put_back(self, before: Sequence[torch.Tensor]) -> None:
        import torch

        self._net.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, value in zip(self.buffers, before, strict=True):
                buffer.copy_(value)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()  # what is free lies in pieces that are too small

    def _smaller(self, batches: Sequence[Batch], said: tuple[str, str], where: str) -> Sequence[Batch]:
        rows = max(batch.size for batch in batches)
        self._savings.tighten()
        if rows > 1 and self._objective.divisible:
            rows = self.most_rows = rows // 2
            done = f"a forward pass sees {self.most_rows:,} instead of {max(batch.size for batch in batches):,} rows"
        elif self._savings.recompute is not None and not self._savings.recompute.on:
            self._savings.recompute.on = True
            done = "layers are computed a second time on the way back (about a third more time)"
        else:
            done = self._offloaded(_no_room(rows, said, where))
        self._notes.append(
            f"{said[0]} in {where}: {done} from here on; this step is done again, and updates are those of as many rows as "
            "before"
        )
        return self._objective.split(batches, rows)  # also where they stay as they are: losses are weighed afresh

    def _offloaded(self, no_room: Problem) -> str:
        offload = self._savings.offload
        state = [value for values in self._optimizer.state.values() for value in values.values() if hasattr(value, "nbytes")]
        size = sum(value.nbytes for value in state)
        if offload is None or offload.on or not size or offload.refusal(size):
            raise MachineError(no_room)
        try:
            offload.hold(self._optimizer)
        except OSError as error:
            raise MachineError(no_room) from error
        return f"the state of the optimiser lies in files in '{offload.folder}'"


def _no_room(rows: int, said: tuple[str, str], where: str) -> Problem:
    over = "over a single row" if rows == 1 else f"over a batch of {rows:,} rows that cannot be split"
    fix = ("" if rows == 1 else "lower train.batch_size, ") + SHORTER
    return Problem(
        what=f"{said[0]} {over}", where=where, got=said[1], expected="memory for one forward and backward pass", fix=fix
    )
