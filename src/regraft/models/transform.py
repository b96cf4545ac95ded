"""What a transform is: an edit of a network's structure that can be done again on a fresh one.

    plan = apply(net, "lora", options, batches, seed)     while fitting: edits `net`, which remembers the plan
    install(fresh, entries)                               while opening an artifact: the same structure, no weights yet
    load(fresh, folder)                                   the weights that belong to it

The manifest holds the plans in their order. A module that was edited says in its attribute `added` which of its tensors did not
come with the base; everything else of it keeps the name that it had. A weight of the base that a transform keeps in another
form stands in `kept_otherwise`; the module gives it, as it counts, under the name that it had.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from regraft.errors import ArtifactError, Problem
from regraft.models import TRANSFORMS
from regraft.options import JSON

if TYPE_CHECKING:
    import torch
    from torch import nn

    from regraft.models.net import Headed
    from regraft.types import Batch

ADDED = "added"
KEPT_OTHERWISE = "kept_otherwise"
"""Attribute of an edited module: name of a weight of the base -> `Kept`, where it is kept in another form."""


@dataclass(frozen=True)
class Kept:
    """In what form a module keeps a weight of the base.

    Args:
        shape: That the weight has as it counts; the module gives it so under its own name, each time that it is asked.
        by: Names of the module's buffers that stand for it. Training never changes them.
    """

    shape: tuple[int, ...]
    by: tuple[str, ...]

    @property
    def weights(self) -> int:
        """How many numbers the weight has."""
        return math.prod(self.shape)

    def size_bytes(self, module: nn.Module) -> int:
        """Return the bytes of what stands for it in a module."""
        return sum(buffer.numel() * buffer.element_size() for buffer in map(module.get_buffer, self.by))


@dataclass(frozen=True)
class Applied:
    """A transform that a network has gone through.

    Args:
        name: Registered name.
        plan: What it did, as JSON.
    """

    name: str
    plan: Mapping[str, JSON]

    def to_json(self) -> dict[str, JSON]:
        """Return the entry of the manifest."""
        return {"name": self.name, "plan": dict(self.plan)}


class Transform(ABC):
    """Edit the structure of a network, and do the same again from a plan. Has no state of its own."""

    folder: ClassVar[str]
    """Folder of an artifact that holds the weights it added."""

    foldable: ClassVar[bool] = True
    """Whether a network without what it added can compute the same."""

    packages: ClassVar[tuple[str, ...]] = ()
    """What must be installed, beside torch, where a network that went through it answers."""

    @abstractmethod
    def apply(self, net: Headed, options: Any, batches: Iterable[Batch], seed: int) -> dict[str, JSON]:
        """Edit a network in place and return the plan.

        Args:
            net: The network.
            options: What was asked for.
            batches: Of training rows, made as they are asked for.
            seed: Draws new weights.

        Raises:
            OptionsError: The network has nothing that could be edited so.
        """

    @abstractmethod
    def install(self, net: Headed, plan: Mapping[str, JSON]) -> None:
        """Give a fresh network the structure that `apply` gave, its new weights still without meaning.

        Raises:
            ArtifactError: The plan is not one of this network.
        """

    @abstractmethod
    def save(self, net: Headed, plan: Mapping[str, JSON], folder: Path) -> None:
        """Write the weights that it added into an existing folder."""

    @abstractmethod
    def load(self, net: Headed, plan: Mapping[str, JSON], folder: Path) -> None:
        """Read what `save` wrote into a network of the same structure.

        Raises:
            ArtifactError: A weight is missing, unexpected, or of another shape or type.
        """

    @abstractmethod
    def without(self, net: Headed, plan: Mapping[str, JSON]) -> dict[str, nn.Module]:
        """Return modules by path that compute the same as the edited ones, in the structure before the edit.

        Raises:
            UsageError: There are none (see `foldable`).
        """

    def original(self, net: Headed, plan: Mapping[str, JSON]) -> dict[str, nn.Module]:
        """Return modules by path as they were before the edit, if nothing that was added has learnt yet."""
        return self.without(net, plan)


def apply(net: Headed, name: str, options: Any, batches: Iterable[Batch], seed: int) -> None:
    """Let a network go through a transform; see `Transform.apply`."""
    plan = _of(name).apply(net, options, batches, seed)
    net.transforms = (*net.transforms, Applied(name, plan))


def install(net: Headed, entries: Sequence[Mapping[str, JSON]]) -> None:
    """Give a fresh network the structure of one that went through transforms.

    Args:
        net: As it is built from its specs.
        entries: `transforms` of the manifest.

    Raises:
        ArtifactError: An entry is not one of this network.
    """
    for entry in entries:
        applied = Applied(str(entry["name"]), dict(entry["plan"]))
        _of(applied.name).install(net, applied.plan)
        net.transforms = (*net.transforms, applied)


def save(net: Headed, folder: Path) -> None:
    """Write the weights that transforms added into folders of an artifact's own."""
    for applied in net.transforms:
        transform = _of(applied.name)
        inside = folder / transform.folder
        inside.mkdir(exist_ok=True)
        transform.save(net, applied.plan, inside)


def load(net: Headed, folder: Path) -> None:
    """Read what `save` wrote.

    Raises:
        ArtifactError: A file or a weight is missing, or is another's.
    """
    for applied in net.transforms:
        transform = _of(applied.name)
        transform.load(net, applied.plan, folder / transform.folder)


def folded(net: Headed) -> Headed:
    """Return a network that computes the same without what transforms added; all that was not edited is shared.

    Args:
        net: Not changed; given back itself where it went through no transform.

    Raises:
        UsageError: What a transform added cannot be folded.
    """
    return _undone(net, lambda made, applied: _of(applied.name).without(made, applied.plan))


def original(net: Headed) -> Headed:
    """Return a network that answers as the base did before transforms, if nothing that they added has learnt yet.

    Args:
        net: Not changed; given back itself where it went through no transform.
    """
    return _undone(net, lambda made, applied: _of(applied.name).original(made, applied.plan))


def _undone(net: Headed, modules: Callable[[Headed, Applied], dict[str, nn.Module]]) -> Headed:
    from regraft.models.view import view

    made = net
    for applied in reversed(net.transforms):
        made = view(made, modules(made, applied))
        made.transforms = made.transforms[:-1]
    return made


def added_names(net: nn.Module) -> set[str]:
    """Return the names of the tensors that transforms added to a network or a part of one."""
    found: set[str] = set()
    for path, module in net.named_modules(remove_duplicate=False):
        found |= {f"{path}.{name}" if path else name for name in getattr(module, ADDED, ())}
    return found


def kept_otherwise(net: nn.Module) -> dict[str, tuple[nn.Module, Kept]]:
    """Return name -> module and form for the weights of the base that transforms keep in another form."""
    return {
        f"{path}.{name}" if path else name: (module, kept)
        for path, module in net.named_modules()
        for name, kept in getattr(module, KEPT_OTHERWISE, {}).items()
    }


def count_weights(net: nn.Module) -> int:
    """Return how many weights a network has, those that are kept in another form included."""
    whole = sum(parameter.numel() for parameter in net.parameters())
    return whole + sum(kept.weights for _, kept in kept_otherwise(net).values())


def running_buffers(net: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Return the buffers that training can change, by name: all but those that stand for a weight of the base."""
    fixed = {id(module.get_buffer(name)) for module, kept in kept_otherwise(net).values() for name in kept.by}
    return [(name, buffer) for name, buffer in net.named_buffers() if id(buffer) not in fixed]


def packages(names: Iterable[str]) -> set[str]:
    """Return what must be installed where a network answers that went through transforms of these names."""
    return {package for name in names for package in _of(name).packages}


def _of(name: str) -> Transform:
    if name not in TRANSFORMS:
        problem = Problem(
            what=f"the artifact went through the transform '{name}', which this version of Regraft does not know",
            got=name,
            expected=f"one of {', '.join(TRANSFORMS)}",
            fix="open it with the version that wrote it, or install the package that brings the transform",
        )
        raise ArtifactError(problem)
    return TRANSFORMS.get(name)()
