"""What a tuning is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from regraft.models.net import Headed
    from regraft.types import Batch


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One of the trainings that a tuning goes through, one after the other.

    Args:
        name: What it is, for people.
        tuning: Says which weights learn in it.
        epochs: How often it sees every training row; as often as `train.epochs` says if not given.
    """

    name: str
    tuning: Tuning
    epochs: int | None = None


class Tuning(ABC):
    """Decide which weights learn. Decides from options and the network alone and leaves nothing behind on modules.

    Args:
        options: An instance of `Options`.
    """

    Options: ClassVar[type[Any]]
    needs: ClassVar[frozenset[str]] = frozenset()
    """What a backbone must provide for it (`Backbone.provides`)."""

    def __init__(self, options: Any) -> None:
        self.options = options

    def prepare(self, net: Headed, batches: Iterable[Batch], seed: int) -> None:  # noqa: B027 - most change nothing
        """Change the structure of a network, where that is part of the tuning (see `regraft.models.transform`).

        Args:
            net: The network, with its head, on its device.
            batches: Of training rows, made as they are asked for.
            seed: Draws new weights.

        Raises:
            OptionsError: The base has not what the tuning needs.
        """

    def phases(self) -> tuple[Phase, ...]:
        """Return the trainings that it goes through, in order; as it stands here one.

        Weights that learn in a phase learn in those after it too: what is kept of a later one holds all that was learnt.
        """
        return (Phase(name="", tuning=self),)

    @abstractmethod
    def trainable(self, net: Headed) -> set[str]:
        """Return the names (of `net.named_parameters()`) that learn; the rest is frozen and runs in evaluation mode."""
