"""An objective with its regularisers: to the training loop one objective like any other."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Self

import numpy as np

from regraft.errors import OptionsError, Problem
from regraft.objectives.objective import Objective
from regraft.options import JSON, Pick
from regraft.regularizers import REGULARIZERS
from regraft.regularizers.regularizer import Inner, Regularizer, Scene
from regraft.types import Array, Batch, BatchRows

if TYPE_CHECKING:
    import torch

    from regraft.models.net import Headed
    from regraft.tasks.task import Loss, Task


def regularized(objective: Objective, picks: Sequence[Pick], others: Sequence[tuple[str, Regularizer]] = ()) -> Objective:
    """Return the objective with regularisers around it; itself where there are none.

    Args:
        objective: Not yet attached.
        picks: `train.regularize`, the outermost first.
        others: Names and what a tuning adds beside them.
    """
    made = [*others]
    for pick in picks:
        cls, options = pick.resolve(REGULARIZERS)
        made.append((pick.name, cls(options)))
    return Regularized(objective, made) if made else objective


class Regularized(Objective):
    """Let regularisers change what is learnt from the rows of an objective.

    Args:
        objective: Makes the batches and their loss.
        parts: Name and regulariser, the outermost loss first.
    """

    def __init__(self, objective: Objective, parts: Sequence[tuple[str, Regularizer]]) -> None:
        super().__init__(objective.options)
        # Who makes the loss itself would leave out whatever stood within.
        self._inner, self._parts = objective, dict(sorted(parts, key=lambda part: part[1].mixes))
        self._task: Task

    def attach(self, rows: BatchRows, targets: Array | None, task: Task) -> Self:
        """Take the training rows; see `Objective.attach`."""
        self._inner.attach(rows, targets, task)
        self._task = task
        for part in self._parts.values():
            part.attach(self._inner, task)
        return self

    def check(self, net: Headed, trainable: Set[str], task: Task) -> None:
        """Refuse what the objective or a regulariser cannot do.

        Raises:
            OptionsError: All that is wrong, at once.
        """
        self._inner.check(net, trainable, task)
        scene = Scene(net=net, trainable=frozenset(trainable), task=task, objective=self._inner)
        problems: list[Problem] = []
        for part in self._parts.values():
            try:
                part.check(scene)
            except OptionsError as error:
                problems += error.problems
        problems += self._contradictions()
        if problems:
            raise OptionsError(problems)

    def _contradictions(self) -> list[Problem]:
        """Return what regularisers cannot do together."""
        said = []
        judging = [name for name, part in self._parts.items() if part.judges_others]
        if len(judging) > 1:
            said.append(f"{' and '.join(judging)} both decide which weights are kept")
        mixing = [name for name, part in self._parts.items() if part.mixes]
        if len(mixing) > 1:
            said.append(f"{' and '.join(mixing)} both mix rows, and the loss of a row can be made in one way only")
        repeating = [name for name, part in self._parts.items() if part.repeats]
        if mixing and repeating:
            why = "holds several passes over the same rows against each other"
            said.append(f"{mixing[0]} mixes rows anew at every pass, and {repeating[0]} {why}")
        found = [Problem(what=what, where="train.regularize", fix="keep one of them") for what in said]
        setting = [name for name, part in self._parts.items() if part.sets]
        if judging and setting:
            what = f"{setting[0]} sets weights to zero that are not zero in the averages which {judging[0]} keeps"
            fix = f"leave {judging[0]} out, or choose another tuning than {setting[0]}"
            found.append(Problem(what=what, where="train.regularize", fix=fix))
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences of the objective and of each regulariser."""
        told = (f"{name}: {note}" for name, part in self._parts.items() for note in part.notes())
        return (*self._inner.notes, *told)

    def loss(self, net: Headed, batch: Batch) -> tuple[Loss, dict[str, float]]:
        """Return the loss as the outermost regulariser gives it."""
        inner: Inner = self._inner.loss
        for part in reversed(self._parts.values()):
            inner = functools.partial(part.loss, inner=inner)
        return inner(net, batch)

    @property
    def varies(self) -> bool:
        """Whether one of them needs the rows as they are encoded."""
        return self._inner.varies or any(part.varies for part in self._parts.values())

    def prepared(self, net: Headed) -> Headed:
        """Return the network as all want it trained."""
        net = self._inner.prepared(net)
        for part in self._parts.values():
            net = part.prepared(net)
        return net

    def begin(self, net: Headed, trainable: Set[str], total_steps: int, steps_per_epoch: int) -> None:
        """Tell all that learning begins."""
        self._inner.begin(net, trainable, total_steps, steps_per_epoch)
        scene = Scene(net=net, trainable=frozenset(trainable), task=self._task, objective=self._inner)
        for part in self._parts.values():
            part.begin(scene, total_steps, steps_per_epoch)

    def pull(self, weight: float) -> None:
        """Let all add to the gradients."""
        self._inner.pull(weight)
        for part in self._parts.values():
            part.pull(weight)

    def updated(self, step: int) -> None:
        """Tell all that the weights have moved."""
        self._inner.updated(step)
        for part in self._parts.values():
            part.updated(step)

    @property
    def may_be_kept(self) -> bool:
        """Whether all are done with what they do to the weights."""
        return self._inner.may_be_kept and all(part.may_be_kept for part in self._parts.values())

    @property
    def judges_others(self) -> bool:
        """Whether one of them has other weights judged than those that move."""
        return self._inner.judges_others or any(part.judges_others for part in self._parts.values())

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Put the weights that are judged into the network."""
        with ExitStack() as stack:
            stack.enter_context(self._inner.judged())
            for part in self._parts.values():
                stack.enter_context(part.judged())
            yield

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors of all, each behind the name of whose it is."""
        found = dict(self._inner.tensors())
        return found | {f"{name}/{key}": value for name, part in self._parts.items() for key, value in part.tensors().items()}

    def state(self) -> dict[str, JSON]:
        """Return what updates change in all of them."""
        return {"inner": self._inner.state(), "parts": {name: part.facts() for name, part in self._parts.items()}}

    def put_back(self, state: Mapping[str, JSON], tensors: Mapping[str, torch.Tensor]) -> None:
        """Take what `state` and `tensors` gave."""
        own = {name: f"{name}/" for name in self._parts}
        others = {key: value for key, value in tensors.items() if not key.startswith(tuple(own.values()))}
        self._inner.put_back(state["inner"], others)
        for name, part in self._parts.items():
            mine = {key.removeprefix(own[name]): value for key, value in tensors.items() if key.startswith(own[name])}
            part.put_back(mine, state["parts"][name])

    def batches(
        self, epoch: int, batch_size: int, micro_batch_size: int, rng: np.random.Generator, first: int = 0
    ) -> Iterator[list[Batch]]:
        """Yield one epoch of the objective."""
        return self._inner.batches(epoch, batch_size, micro_batch_size, rng, first)

    def rows_per_epoch(self) -> int:
        """Return how many rows one epoch sees."""
        return self._inner.rows_per_epoch()

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return how many lists `batches` yields."""
        return self._inner.steps_per_epoch(batch_size)

    @property
    def divisible(self) -> bool:
        """Whether a batch may go through in pieces."""
        return self._inner.divisible

    def split(self, batches: Sequence[Batch], most_rows: int) -> list[Batch]:
        """Return the rows of an update in smaller micro-batches."""
        return self._inner.split(batches, most_rows)

    def part(self, batch: Batch, places: Array) -> Batch:
        """Return the rows at some places of a micro-batch."""
        return self._inner.part(batch, places)

    def largest(self, batch_size: int, micro_batch_size: int, rngs: Iterable[np.random.Generator], *, padded: bool) -> Batch:
        """Return the micro-batch that has most positions."""
        return self._inner.largest(batch_size, micro_batch_size, rngs, padded=padded)


__all__ = ["Regularized", "regularized"]
