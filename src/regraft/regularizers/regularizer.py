"""What a regulariser is: it changes what a fit learns from its rows, without being an objective of its own.

It may compute the loss of a micro-batch another way, pull at the gradients of an update, follow the weights after it, and have
other weights judged and kept than those that move. Most do one of these.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from regraft.options import JSON

if TYPE_CHECKING:
    import torch

    from regraft.models.net import Headed
    from regraft.objectives.objective import Objective
    from regraft.tasks.task import Loss, Task
    from regraft.types import Batch

Inner = Callable[["Headed", "Batch"], "tuple[Loss, dict[str, float]]"]
"""The loss of a micro-batch, as it is without this regulariser."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a regulariser works on.

    Args:
        net: The network.
        trainable: Names of its weights that learn.
        task: The task that has learnt from the training rows.
        objective: Makes batches and their loss, without any regulariser.
    """

    net: Headed
    trainable: frozenset[str]
    task: Task
    objective: Objective

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the weights that learn, by name."""
        return {name: value for name, value in self.net.named_parameters() if name in self.trainable}


class Regularizer(ABC):
    """Change what is learnt from rows; does nothing as it stands here.

    Args:
        options: An instance of `Options`.
    """

    Options: ClassVar[type[Any]]
    judges_others: ClassVar[bool] = False
    """Whether the weights that `judged` puts in place are the result of the fit, and not those that move."""
    mixes: ClassVar[bool] = False
    """Whether it mixes rows and makes their loss itself, by the objective and without `inner`: it then stands innermost."""
    repeats: ClassVar[bool] = False
    """Whether it holds several passes over the same rows against each other."""
    sets: ClassVar[bool] = False
    """Whether `updated` sets weights to what they shall be, which an average of weights would not be."""
    varies: ClassVar[bool] = False
    """Whether it needs the rows as they are encoded, so that nothing below what learns may be computed once and kept."""

    objective: Objective
    """Makes batches and their loss, without any regulariser."""
    task: Task
    """The task that has learnt from the training rows."""

    def __init__(self, options: Any) -> None:
        self.options = options

    def attach(self, objective: Objective, task: Task) -> None:
        """Take in the objective, which has its rows now, and the task; called before everything but `check`."""
        self.objective, self.task = objective, task

    def check(self, scene: Scene) -> None:  # noqa: B027 - most suit any network
        """Refuse, before anything is computed, what it cannot do.

        Args:
            scene: The whole network; the objective has no rows yet.

        Raises:
            OptionsError: The task, the objective or the base has not what it needs.
        """

    def prepared(self, net: Headed) -> Headed:
        """Return the network as it is to be trained: itself, or a view of it that shares all weights under the same names.

        Args:
            net: The part of the network that learns; not changed.
        """
        return net

    def begin(self, scene: Scene, total_steps: int, steps_per_epoch: int) -> None:  # noqa: B027 - most have no state
        """Take in what is about to learn; called before the first update, and before `put_back`.

        Args:
            scene: The part of the network that learns, in the mode in which it learns.
            total_steps: Updates planned.
            steps_per_epoch: Updates that see every row once.
        """

    def loss(self, net: Headed, batch: Batch, inner: Inner) -> tuple[Loss, dict[str, float]]:
        """Return the loss of a micro-batch, as a sum over its rows, and numbers worth logging.

        Args:
            net: The network.
            batch: Rows with their targets.
            inner: Gives the loss without this regulariser; may be called several times.
        """
        return inner(net, batch)

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

    def judged(self) -> AbstractContextManager[None]:
        """Return a block in which the weights that are to be judged and kept stand in the network."""
        return nullcontext()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what updates change in it, so that an interrupted fit goes on: tensors by name."""
        return {}

    def facts(self) -> dict[str, JSON]:
        """Return what updates change in it and is no tensor."""
        return {}

    def put_back(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, JSON]) -> None:  # noqa: B027
        """Take what `tensors` and `facts` gave."""

    def notes(self) -> tuple[str, ...]:
        """Return sentences for the log and the report, once the network has learnt."""
        return ()
