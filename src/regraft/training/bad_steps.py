"""Updates that would do harm: a loss or a gradient that is not a finite number, or a gradient that explodes.

guard = Guard(options, buffers)
guard.bear(error)       after a bad update: raises the error, or says what was done about it
guard.done(norm, ...)   after a good one
"""

from __future__ import annotations

import dataclasses
import statistics
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from regraft.errors import GateError
from regraft.options import JSON, Field, options
from regraft.training import BAD_STEPS
from regraft.training.checkpoint import State

if TYPE_CHECKING:
    import torch

    from regraft.training.options import BadStepOptions

_WATCHED = 64
_FEWEST = 8  # norms before an explosion can be told from the unrest of the first updates


class BadStepPolicy(ABC):
    """Decide what happens at a bad update.

    Args:
        options: An instance of `Options`.
    """

    Options: ClassVar[type[Any]]
    bears: ClassVar[bool] = True
    """Whether training goes on after a bad update."""

    def __init__(self, options: Any) -> None:
        self.options = options

    @abstractmethod
    def bear(self, put_back: Callable[[State], None]) -> str:
        """Do what is to be done after an update that was left out, and say it in half a sentence.

        Args:
            put_back: Writes weights and optimiser of a state back.
        """

    @property
    def rate(self) -> float:
        """What learning rates are multiplied by."""
        return 1.0

    def done(self, step: int, state: Callable[[], State]) -> None:  # noqa: B027 - most remember nothing
        """Take in that an update went well.

        Args:
            step: Updates done.
            state: Gives weights and optimiser as they are; they are live.
        """

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what it remembers, so that an interrupted fit goes on: tensors by name."""
        return {}

    def facts(self) -> dict[str, JSON]:
        """Return what it remembers and is no tensor."""
        return {}

    def put_back(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, JSON]) -> None:  # noqa: B027
        """Take what `tensors` and `facts` gave."""


@options
class NoChoice:
    """Nothing to choose."""


class Stop(BadStepPolicy):
    """End training at the first bad update, the weights as they were before it."""

    Options = NoChoice
    bears: ClassVar[bool] = False

    def bear(self, put_back: Callable[[State], None]) -> str:
        """Never asked."""
        return ""


class Skip(BadStepPolicy):
    """Leave the update out and go on with the next rows."""

    Options = NoChoice

    def bear(self, put_back: Callable[[State], None]) -> str:
        """Say so."""
        return "the update was left out"


@options
class RollBackOptions:
    """How far back, and how much slower from there."""

    every: Annotated[int, Field(ge=1)] = 50
    """Good updates between two states that may be gone back to; one is held in memory."""

    lower: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """What the learning rate is multiplied by from there on."""


class RollBack(BadStepPolicy):
    """Go back to the last good state, with a lower learning rate from there; the rows in between are not seen again."""

    Options = RollBackOptions

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._good: State | None = None
        self._lowered = 0

    @property
    def rate(self) -> float:
        """What is left of the learning rate."""
        return float(self.options.lower**self._lowered)

    def done(self, step: int, state: Callable[[], State]) -> None:
        """Remember every so many steps."""
        if self._good is None or step - self._good.step >= self.options.every:
            live = state()
            held = {name: value.detach().clone() for name, value in live.tensors.items()}
            self._good = dataclasses.replace(live, step=step, tensors=held)

    def bear(self, put_back: Callable[[State], None]) -> str:
        """Put the remembered state back."""
        self._lowered += 1
        slower = f"learning rates are {self.rate:.3g} of what they were"
        if self._good is None:
            return f"the update was left out, {slower}"
        put_back(self._good)
        return f"weights and optimiser are those after step {self._good.step} again, {slower}"

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the remembered state."""
        return {} if self._good is None else dict(self._good.tensors)

    def facts(self) -> dict[str, JSON]:
        """Return what belongs to it."""
        good = None if self._good is None else {"step": self._good.step, "facts": dict(self._good.facts)}
        return {"lowered": self._lowered, "good": good}

    def put_back(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, JSON]) -> None:
        """Take what `tensors` and `facts` gave."""
        self._lowered, good = int(facts["lowered"]), facts["good"]
        held = {name: value.clone() for name, value in tensors.items()}
        self._good = None if good is None else State(good["step"], held, good["facts"])


class Guard:
    """Count bad updates, bear them as the policy says, and stop after too many.

    Args:
        options: Policy and limits.
        buffers: Running statistics of modules that learn: a bad forward pass has spoilt them.
    """

    def __init__(self, options: BadStepOptions, buffers: Sequence[torch.Tensor]) -> None:
        cls, chosen = options.policy.resolve(BAD_STEPS)
        self.policy: BadStepPolicy = cls(chosen)
        self.options = options
        self.borne = 0
        self._buffers = buffers if self.policy.bears else ()
        self._before: list[torch.Tensor] = []
        self._norms: deque[float] = deque(maxlen=_WATCHED)

    def before(self) -> None:
        """Remember, before an update, what only the forward pass changes."""
        self._before = [buffer.detach().clone() for buffer in self._buffers]

    @property
    def most(self) -> float | None:
        """The norm from which on a gradient explodes; nothing where there is no limit, or too few were seen."""
        if self.options.exploding is None or len(self._norms) < _FEWEST:
            return None
        return self.options.exploding * statistics.median(self._norms)

    def done(self, norm: float, step: int, state: Callable[[], State]) -> None:
        """Take in that an update went well.

        Args:
            norm: Of its gradient.
            step: Updates done.
            state: Gives weights and optimiser as they are.
        """
        if self.options.exploding is not None:
            self._norms.append(norm)
        self.policy.done(step, state)

    def bear(self, error: GateError, put_back: Callable[[State], None]) -> str:
        """Do what the policy says about a bad update, and say it.

        Args:
            error: What is wrong with it.
            put_back: Writes weights and optimiser of a state back.

        Raises:
            GateError: It is not to be borne.
        """
        import torch

        if not self.policy.bears or self.borne >= self.options.limit:
            if self.borne:
                first = error.problems[0]
                what = f"{first.what}; {self.borne} bad updates before it were borne, and more are not (train.bad_steps.limit)"
                raise GateError([dataclasses.replace(first, what=what), *error.problems[1:]]) from error
            raise error
        with torch.no_grad():
            for buffer, value in zip(self._buffers, self._before, strict=True):
                buffer.copy_(value)
        self.borne += 1
        first = error.problems[0]
        return f"{first.where}: {first.what} ({first.got}); {self.policy.bear(put_back)}"

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what is remembered, so that an interrupted fit goes on: tensors by name."""
        return self.policy.tensors()

    def facts(self) -> dict[str, JSON]:
        """Return what is remembered and is no tensor."""
        return {"borne": self.borne, "norms": list(self._norms), "policy": self.policy.facts()}

    def put_back(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, JSON]) -> None:
        """Take what `tensors` and `facts` gave."""
        self.borne = facts["borne"]
        self._norms.extend(facts["norms"])
        self.policy.put_back(tensors, facts["policy"])
