"""Everything that training has become at one moment between two updates, and who keeps it.

Randomness is no part of it: every draw is a function of the seed and of where in the fit it happens (`regraft.training.seed`),
and so is the order of rows. What is left are numbers that updates change: weights, buffers, the optimiser, the best weights so
far, the counters of the loop, of the number format and of the objective. All of it is plain tensors and JSON.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from regraft.errors import ArtifactError, Problem
from regraft.options import JSON
from regraft.training.freeze import changing
from regraft.training.offload import MADE_BY

if TYPE_CHECKING:
    import torch
    from torch import nn

WEIGHTS, OPTIMIZER, BEST, OBJECTIVE, GOOD = "weights.", "optimizer.", "best.", "objective.", "good."


@dataclass(frozen=True)
class State:
    """Training between two updates.

    Args:
        step: Updates done.
        tensors: Name -> values. They are the live ones of the network: what keeps them has copied or written them when it
            returns.
        facts: What else there is, as JSON.
    """

    step: int
    tensors: Mapping[str, torch.Tensor]
    facts: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """One of the trainings of a fit that follow each other.

    Args:
        number: Counting from 0.
        first: Steps that those before it take.
    """

    number: int = 0
    first: int = 0


class Keeper(Protocol):
    """Keep the state of training now and then."""

    def begin(self) -> State | None:
        """Return the state to go on from, or nothing."""

    def due(self, step: int) -> bool:
        """Return whether the state after so many updates is to be kept."""

    def keep(self, state: State) -> None:
        """Keep it; raises where training is to end here."""


class Nothing:
    """Keep nothing: training begins at the start, and what is interrupted is lost."""

    def begin(self) -> State | None:
        """Return nothing."""
        return None

    def due(self, step: int) -> bool:
        """Return no."""
        return False

    def keep(self, state: State) -> None:
        """Do nothing."""


def captured(net: nn.Module, trainable: Set[str], optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], JSON]:
    """Return what updates change in a network and an optimiser: tensors, and the optimiser's other values."""
    tensors = {WEIGHTS + name: value.detach() for name, value in changing(net, trainable)}
    others: dict[str, dict[str, JSON]] = {}
    for place, parameter in enumerate(_parameters(optimizer)):
        for key, value in optimizer.state.get(parameter, {}).items():
            if hasattr(value, "detach"):
                tensors[f"{OPTIMIZER}{place}.{key}"] = value.detach()
            else:
                others.setdefault(str(place), {})[key] = value
    return tensors, others


def put_into(net: nn.Module, trainable: Set[str], optimizer: torch.optim.Optimizer, state: State, others: Any) -> None:
    """Write what `captured` gave back into the same network and optimiser.

    Raises:
        ArtifactError: It is the state of another network.
    """
    import torch

    put_weights(net, trainable, state)
    parameters = _parameters(optimizer)
    for name, value in part(state.tensors, OPTIMIZER).items():
        place, _, key = name.partition(".")
        parameter = parameters[int(place)]
        if value.shape == parameter.shape and value.ndim:
            # In the order of the weight's own axes: fused optimisers go through the memory of both side by side.
            like = getattr(optimizer, MADE_BY, torch.empty_like)
            optimizer.state[parameter][key] = like(parameter, dtype=value.dtype).copy_(value)
        else:
            # Counters stay where the optimiser had them: on the processor, even of weights on a GPU.
            optimizer.state[parameter][key] = value.clone()
    for place, values in dict(others).items():
        optimizer.state[parameters[int(place)]].update(values)


def put_weights(net: nn.Module, trainable: Set[str], state: State) -> None:
    """Write the weights and buffers of a state into the same network.

    Raises:
        ArtifactError: They are those of another network.
    """
    import torch

    found = part(state.tensors, WEIGHTS)
    places = dict(changing(net, trainable))
    same = found.keys() == places.keys() and all(found[name].shape == value.shape for name, value in places.items())
    if not same:
        what, fix = "the checkpoint is of another network", "fit anew: it was made by another version or from other rows"
        raise ArtifactError(Problem(what=what, got=f"{len(found)} tensors", expected=f"{len(places)} of these shapes", fix=fix))
    with torch.no_grad():
        for name, value in places.items():
            value.copy_(found[name])


def part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin so, without the beginning.

    Example:
        >>> part({"best.a": 1, "weights.a": 2}, "best.")
        {'a': 1}
    """
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def behind(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors with a beginning before their names, which `part` takes away again."""
    return {prefix + name: value for name, value in tensors.items()}


def _parameters(optimizer: torch.optim.Optimizer) -> list[Any]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


class Stop:
    """Whether somebody asked to stop: the first time politely, the second time at once."""

    def __init__(self) -> None:
        self.asked = ""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take a signal.

        Raises:
            KeyboardInterrupt: It is not the first.
        """
        if self.asked:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number).name


@contextmanager
def stopping(note: Stop) -> Iterator[Stop]:
    """Let SIGINT and SIGTERM ask training to stop after the present update, for as long as the block runs.

    Only the main thread of a process hears signals; elsewhere, and where a signal is ignored, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield note
        return
    numbers = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) not in (signal.SIG_IGN, None)]
    before = {each: signal.signal(each, note) for each in numbers}
    try:
        yield note
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


__all__ = [
    "BEST",
    "GOOD",
    "OBJECTIVE",
    "OPTIMIZER",
    "WEIGHTS",
    "Keeper",
    "Nothing",
    "State",
    "Stop",
    "Turn",
    "behind",
    "captured",
    "part",
    "put_into",
    "put_weights",
    "stopping",
]
