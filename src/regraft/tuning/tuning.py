"""What a tuning is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from regraft.errors import OptionsError
from regraft.tuning.options import TuningOptions

if TYPE_CHECKING:
    from regraft.models.net import Headed
    from regraft.regularizers.regularizer import Regularizer
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


class Learnt(set[str]):
    """Names of the weights that learn, and by what the peak rates of some are multiplied.

    Args:
        names: Names of weights.
        shares: Name -> factor; 1 where there is none. What set operations make of it has none.

    Example:
        >>> Learnt(["a", "b"], {"b": 0.5}) == {"a", "b"}
        True
    """

    def __init__(self, names: Iterable[str], shares: Mapping[str, float]) -> None:
        super().__init__(names)
        self.shares = shares

    @staticmethod
    def share(names: Set[str], name: str) -> float:
        """Return by what the peak rate of a weight is multiplied, of names that say it and of those that do not."""
        return names.shares.get(name, 1.0) if isinstance(names, Learnt) else 1.0


class Tuning(ABC):
    """Decide which weights learn. Decides from options and the network alone and leaves nothing behind on modules.

    Args:
        options: An instance of `Options`.
    """

    Options: ClassVar[type[Any]]
    """A subclass of `TuningOptions`."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """What a backbone must provide for it (`Backbone.provides`)."""

    head_alone: ClassVar[bool] = False
    """Whether nothing learns but a head on features that are computed once: its epochs cost next to nothing."""

    neutral: ClassVar[bool] = True
    """Whether the network answers as before until something has learnt, with the options as they stand."""

    keeps_base: ClassVar[bool] = True
    """Whether the base can be asked as it came while nothing has learnt, with the options as they stand."""

    def __init__(self, options: Any) -> None:
        self.options = options

    def require(self) -> None:  # noqa: B027 - most need nothing
        """Refuse where a package is not installed that the tuning needs; nothing else has been done yet.

        Raises:
            MissingExtraError: One is not; names the extra.
        """

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

    def check(self, net: Headed) -> None:
        """Refuse options that every tuning has and that do not fit this network.

        Args:
            net: The whole network, prepared.

        Raises:
            OptionsError: A part or layer is not there or does not learn; one problem each.
        """
        from regraft.tuning.anew import anew_problems
        from regraft.tuning.rates import rate_problems

        said, names = self._said, self.trainable(net)
        problems = [*rate_problems(net, said, names), *anew_problems(net, said.reinit, names)]
        if problems:
            raise OptionsError(problems)

    def follows(self) -> tuple[tuple[str, Regularizer], ...]:
        """Return what follows the training for it, as a regulariser does: names for people, and what pulls at gradients or sets
        weights after an update. Made afresh at each call; as it stands here nothing.
        """
        return ()

    def shares(self, net: Headed) -> dict[str, float]:
        """Return name of a weight -> by what its peak rate is multiplied; names with 1 are left out."""
        from regraft.tuning.rates import shares_of

        return shares_of(net, self._said)

    def begin(self, net: Headed, seed: int) -> None:
        """Draw the layers anew that shall be, just before they learn: baselines have seen the base as it came.

        Args:
            net: The whole network, changed in place.
            seed: Draws them.
        """
        from regraft.tuning.anew import draw_anew

        if self._said.reinit:
            draw_anew(net, self._said.reinit, seed)

    @property
    def _said(self) -> TuningOptions:
        return self.options if isinstance(self.options, TuningOptions) else TuningOptions()
