"""What an objective is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from regraft.options import JSON
from regraft.types import Array, Batch, BatchRows

if TYPE_CHECKING:
    import torch

    from regraft.models.net import Headed
    from regraft.tasks.task import Loss, Task


class Objective(ABC):
    """Make batches and their loss.

    Made in two steps, so that options can be checked long before there are rows: `cls(options).attach(rows, targets, task)`.

    Args:
        options: An instance of `Options`.
    """

    Options: ClassVar[type[Any]]

    def __init__(self, options: Any) -> None:
        self.options = options

    @abstractmethod
    def attach(self, rows: BatchRows, targets: Array | None, task: Task) -> Self:
        """Take the training rows and return itself.

        Args:
            rows: Encoded training rows.
            targets: Targets (N, ...) of the task for these rows; nothing for an objective that makes its own.
            task: The task that has learnt from these rows.

        Raises:
            DataError: There are no rows, or not one target a row.
        """

    def check(self, net: Headed, trainable: Set[str], task: Task) -> None:  # noqa: B027 - most take any network
        """Refuse, before anything is computed, a network of which this cannot be learnt.

        Args:
            net: The whole network.
            trainable: Names of its weights that learn.
            task: The task that has learnt from the training rows.

        Raises:
            OptionsError: The weights that learn are not those that the objective needs.
        """

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the log and the report, once the network has learnt."""
        return ()

    @abstractmethod
    def batches(
        self, epoch: int, batch_size: int, micro_batch_size: int, rng: np.random.Generator, first: int = 0
    ) -> Iterator[list[Batch]]:
        """Yield one epoch: for each optimiser step the micro-batches that make up its batch.

        Args:
            epoch: Counting from 0.
            batch_size: Rows an update.
            micro_batch_size: Rows a forward pass, at most `batch_size`.
            rng: Draws the order of rows; the same generator state gives the same batches.
            first: Step of the epoch to begin with, counting from 0; those before it are not made.
        """

    @property
    def varies(self) -> bool:
        """Whether it needs the rows as they are encoded, so that nothing below what learns may be computed once and kept."""
        return False

    def prepared(self, net: Headed) -> Headed:
        """Return the network as it is to be trained: itself, or a view of it that shares all weights under the same names.

        Args:
            net: The part of the network that learns; not changed.
        """
        return net

    def begin(self, net: Headed, trainable: Set[str], total_steps: int, steps_per_epoch: int) -> None:  # noqa: B027
        """Take in what is about to learn; called before the first update, and before `put_back`.

        Args:
            net: The part of the network that learns, in the mode in which it learns.
            trainable: Names of its weights that learn.
            total_steps: Updates planned.
            steps_per_epoch: Updates that see every row once.
        """

    def pull(self, weight: float) -> None:  # noqa: B027 - most leave gradients alone
        """Add to the gradients of an update, once they are complete and before they are clipped.

        Args:
            weight: The gradients stand for so many times those of the mean loss.
        """

    def updated(self, step: int) -> None:  # noqa: B027 - most do not follow the weights
        """Follow the weights; called after each update, and may set some.

        Their gradients still stand on them as the optimiser saw them: of the mean loss of the batch, pulled at, and clipped.

        Args:
            step: Updates done.
        """

    @property
    def may_be_kept(self) -> bool:
        """Whether the weights as they are now may be the result: not while something that `updated` does is half done."""
        return True

    @property
    def judges_others(self) -> bool:
        """Whether the weights that `judged` puts in place are judged and kept, and not those that move."""
        return False

    def judged(self) -> AbstractContextManager[None]:
        """Return a block in which the weights that are judged and kept stand in the network."""
        return nullcontext()

    def state(self) -> dict[str, JSON]:
        """Return what updates change in the objective itself, as JSON; floats keep all their digits."""
        return {}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what updates change in the objective itself and is a tensor, by name."""
        return {}

    def put_back(self, state: Mapping[str, JSON], tensors: Mapping[str, torch.Tensor]) -> None:  # noqa: B027
        """Take what `state` and `tensors` gave."""

    @abstractmethod
    def rows_per_epoch(self) -> int:
        """Return how many rows one epoch sees."""

    @abstractmethod
    def steps_per_epoch(self, batch_size: int) -> int:
        """Return how many lists `batches` yields."""

    @abstractmethod
    def loss(self, net: Headed, batch: Batch) -> tuple[Loss, dict[str, float]]:
        """Return the loss of one micro-batch and numbers worth logging."""

    def output(self, net: Headed, batch: Batch) -> torch.Tensor:
        """Return what the head makes of a micro-batch, where the loss follows from that and the targets alone.

        Raises:
            NotImplementedError: It does not; see `has_output`.
        """
        raise NotImplementedError

    def cost(self, net: Headed, output: torch.Tensor, batch: Batch) -> tuple[Loss, dict[str, float]]:
        """Return the loss of what `output` gave, and numbers worth logging.

        Args:
            net: The network.
            output: One entry a row.
            batch: The rows, with the targets to hold it against.

        Raises:
            NotImplementedError: It has no output; see `has_output`.
        """
        raise NotImplementedError

    @property
    def has_output(self) -> bool:
        """Whether `loss` is `cost` of `output`: a regulariser may then mix outputs or hold them against each other."""
        return False

    @property
    def divisible(self) -> bool:
        """Whether `split` gives the same update: the loss of a batch is the sum of the losses of its rows."""
        return False

    def split(self, batches: Sequence[Batch], most_rows: int) -> list[Batch]:
        """Return the rows of an update, which begins afresh, in micro-batches of at most so many rows.

        As it stands here, the micro-batches as they are, for an objective that is not `divisible`.

        Args:
            batches: Micro-batches of one update, as the epoch that `batches` is yielding gave them.
            most_rows: Rows a forward pass, at least 1.

        Returns:
            The same rows in the same order.
        """
        return list(batches)

    def part(self, batch: Batch, places: Array) -> Batch:
        """Return the rows at some places of a micro-batch; as it stands here, all of them.

        Args:
            batch: What `largest` or `batches` gave.
            places: Places (R,) of rows in it.
        """
        return batch

    def largest(self, batch_size: int, micro_batch_size: int, rngs: Iterable[np.random.Generator], *, padded: bool) -> Batch:
        """Return the micro-batch of a training that has most positions, and so takes most memory.

        As it stands here, that of the first epoch, made and looked at one after the other.

        Args:
            batch_size: Rows an update.
            micro_batch_size: Rows a forward pass.
            rngs: One for each epoch, as `batches` takes them.
            padded: Whether padding counts.
        """

        def positions(batch: Batch) -> int:
            return batch.mask_BT.size if padded else int(np.count_nonzero(batch.mask_BT))

        made = self.batches(0, batch_size, micro_batch_size, next(iter(rngs)))
        return max((batch for update in made for batch in update), key=positions)
