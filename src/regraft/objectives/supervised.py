"""Supervised learning: every training row has its target, and the task says what a wrong answer costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from regraft.errors import DataError, OptionsError, Problem
from regraft.objectives.gradnorm import GradNorm
from regraft.objectives.objective import Objective
from regraft.options import JSON, options
from regraft.tasks.task import Loss
from regraft.types import Array, Batch, BatchRows

if TYPE_CHECKING:
    import torch

    from regraft.models.net import Headed
    from regraft.tasks.task import Task

_SHARED = "backbone."
_MOST_LOOKED_AT = 200_000


@options
class SupervisedOptions:
    """Which rows are learnt from; the task's options say how the loss is made."""

    sampling: Literal["every-row", "balanced"] = "every-row"
    """What an epoch sees: every-row (each row once), or balanced (as many rows, drawn with replacement so that every class
    comes equally often, and of several targets the rows of each; rare rows come several times, others not at all)."""


class Supervised(Objective):
    """Learn from rows with targets: each epoch sees every row exactly once in a fresh random order, or a balanced draw.

    Args:
        options: An instance of `Options`.
    """

    Options = SupervisedOptions

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._rows: BatchRows
        self._targets: Array
        self._task: Task
        self._gradnorm: GradNorm | None = None
        self._drawn: BatchRows

    def attach(self, rows: BatchRows, targets: Array | None, task: Task) -> Self:
        """Take the training rows with their targets and the task that makes the loss.

        Raises:
            DataError: There are no rows, or not one target a row.
        """
        given = 0 if targets is None else len(targets)
        if targets is None or given != len(rows) or not given:
            raise DataError(
                Problem(
                    what="supervised learning needs training rows, each with its target",
                    where="training rows",
                    got=f"{len(rows)} rows and {given} targets",
                    expected="at least one row and as many targets as rows",
                    fix="give rows that have a value in the target column",
                )
            )
        self._rows, self._targets, self._task = rows, targets, task
        self._drawn = rows
        if task.by_gradients is not None:
            self._gradnorm = GradNorm(*task.by_gradients)
        return self

    def check(self, net: Headed, trainable: Set[str], task: Task) -> None:
        """Refuse to weigh losses by their gradients where nothing that the targets share learns.

        Raises:
            OptionsError: Only heads learn.
        """
        if task.by_gradients is None or any(name.startswith(_SHARED) for name in trainable):
            return
        problem = Problem(
            what="GradNorm weighs losses by the gradients of what the targets share, of which nothing learns here",
            where="task.weighting",
            got="a tuning under which only the heads learn",
            expected="weights of the backbone that learn",
            fix="choose another tuning (--tuning top-k, lora or full), or leave task.weighting out: heads alone do not compete",
        )
        raise OptionsError(problem)

    @property
    def notes(self) -> tuple[str, ...]:
        """What became of the weights of losses, where gradients decided."""
        return () if self._gradnorm is None else (self._gradnorm.told(),)

    def batches(
        self, epoch: int, batch_size: int, micro_batch_size: int, rng: np.random.Generator, first: int = 0
    ) -> Iterator[list[Batch]]:
        """Yield one epoch in an order drawn from `rng`; the last batch may be short, of every row once none is left out.

        Inside a batch that is split, rows are sorted by length: the update is the same, and less padding is computed.
        """
        order_N = self._order(rng)
        rows = self._rows.drawn(rng)
        for cuts in self._cuts(order_N[first * batch_size :], batch_size, micro_batch_size):
            self._drawn = rows  # whoever else draws in between has rows of his own
            rows_B = np.concatenate(cuts)
            update = self._made(cuts, self._task.scales(self._targets[rows_B]))
            if self._gradnorm is None:
                yield update
                continue
            self._gradnorm.begin()
            yield update
            self._gradnorm.end(len(rows_B))

    def _cuts(self, order_N: Array, batch_size: int, micro_batch_size: int) -> Iterator[list[Array]]:
        """Yield the positions of the rows of each update, as those of its micro-batches."""
        for start in range(0, len(order_N), batch_size):
            rows_B = order_N[start : start + batch_size]
            if len(rows_B) > micro_batch_size:
                rows_B = rows_B[np.argsort(self._rows.lengths[rows_B], kind="stable")]
            yield _pieces(rows_B, micro_batch_size)

    def _made(self, cuts: Sequence[Array], scales: Array | None) -> list[Batch]:
        """Return micro-batches of rows of the present epoch; the scales are those of the whole update."""
        made = [self._drawn.batch(rows_B, self._targets) for rows_B in cuts]
        return made if scales is None else [replace(batch, scales=scales) for batch in made]

    @property
    def divisible(self) -> bool:
        """Whether the loss of a batch is the sum of the losses of its rows."""
        return not self._task.paired

    def split(self, batches: Sequence[Batch], most_rows: int) -> list[Batch]:
        """Return the rows of an update in micro-batches of at most so many rows; its losses are weighed afresh."""
        if self._gradnorm is not None:
            self._gradnorm.begin()
        made: list[Batch] = []
        for batch in batches:
            small = batch.rows_B is None or batch.size <= most_rows
            made += [batch] if small else self._made(_pieces(np.asarray(batch.rows_B), most_rows), batch.scales)
        return made

    def part(self, batch: Batch, places: Array) -> Batch:
        """Return the rows at some places of a micro-batch."""
        return self._made([np.asarray(batch.rows_B)[places]], batch.scales)[0]

    def largest(self, batch_size: int, micro_batch_size: int, rngs: Iterable[np.random.Generator], *, padded: bool) -> Batch:
        """Return the micro-batch of a training that has most positions, its longest rows first.

        Only lengths are looked at, of all epochs or of the first 200,000 rows.
        """
        lengths_N, most, looked_at = self._rows.lengths, -1, 0
        for rng in rngs:
            order_N = self._order(rng)
            self._drawn = self._rows.drawn(rng)
            for cuts in self._cuts(order_N[:_MOST_LOOKED_AT], batch_size, micro_batch_size):
                for rows_B in cuts:
                    lengths_B = lengths_N[rows_B]
                    positions = int(lengths_B.max()) * len(rows_B) if padded else int(lengths_B.sum())
                    if positions > most:
                        most, chosen_B = positions, rows_B
                        scales = self._task.scales(self._targets[np.concatenate(cuts)])
            looked_at += len(order_N)
            if looked_at >= _MOST_LOOKED_AT:
                break
        longest_first_B = chosen_B[np.argsort(-lengths_N[chosen_B], kind="stable")]
        return self._made([longest_first_B], scales)[0]

    def _order(self, rng: np.random.Generator) -> Array:
        """Return the positions of the rows of one epoch (N,)."""
        rows = len(self._rows)
        if self.options.sampling == SupervisedOptions().sampling:
            return rng.permutation(rows)
        chances_N = self._task.balance(self._targets)
        return rng.choice(rows, size=rows, replace=True, p=chances_N / chances_N.sum())

    def state(self) -> dict[str, JSON]:
        """Return the weights of the losses and how they move, where gradients decide."""
        return {} if self._gradnorm is None else self._gradnorm.state()

    def put_back(self, state: Mapping[str, JSON], tensors: Mapping[str, torch.Tensor]) -> None:
        """Take what `state` gave."""
        if self._gradnorm is not None:
            self._gradnorm.put_back(state)

    def rows_per_epoch(self) -> int:
        """Return the number of training rows."""
        return len(self._rows)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the number of updates that see every row once."""
        return -(-len(self._rows) // batch_size)

    @property
    def has_output(self) -> bool:
        """Whether the loss is that of one output a row: not where gradients of several losses are weighed."""
        return self._gradnorm is None

    def loss(self, net: Headed, batch: Batch) -> tuple[Loss, dict[str, float]]:
        """Return the task's loss on one micro-batch."""
        return self.cost(net, self.output(net, batch), batch)

    def output(self, net: Headed, batch: Batch) -> torch.Tensor:
        """Return what the head makes of a micro-batch."""
        made: torch.Tensor = net(*net.tensors(batch))
        return made

    def cost(self, net: Headed, output: torch.Tensor, batch: Batch) -> tuple[Loss, dict[str, float]]:
        """Return the task's loss for an output."""
        import torch

        targets = torch.from_numpy(np.asarray(batch.targets)).to(output.device)
        if self._gradnorm is None:
            return self._task.scaled_loss(output, targets, batch.scales), {}
        total, logs = self._gradnorm.weigh(net, self._task.losses(output, targets, batch.scales), id(batch))
        return Loss(output.new_zeros(()) if total is None else total, output.new_tensor(float(len(targets)))), logs


def _pieces(rows_B: Array, most_rows: int) -> list[Array]:
    return [rows_B[start : start + most_rows] for start in range(0, len(rows_B), most_rows)]
