"""What a runtime is: the network of an artifact as a function from a batch to outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

from regraft.artifact.manifest import Manifest
from regraft.options import JSON
from regraft.tasks.task import Task
from regraft.training.arithmetic import Flops
from regraft.training.cost import Answered, Passes, Use
from regraft.training.options import MachineOptions
from regraft.training.threads import available_cores, default_threads
from regraft.types import Batch, FloatArray


class Runtime(ABC):
    """Compute the raw outputs of a network. May be called from any thread; the answer does not depend on which."""

    package: ClassVar[str]
    """The package that does the work; the runtime can be used where it is installed."""
    extra: ClassVar[str]
    """The extra of regraft that brings it."""
    does_without: ClassVar[frozenset[str]] = frozenset()
    """Packages that must not be needed: the gate of an export takes them away."""
    positions: ClassVar[int | None] = None
    """Most positions of a batch, padding included, that it computes fastest; None where only the number of rows counts."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, manifest: Manifest, task: Task, options: MachineOptions) -> Self:
        """Open the network of an artifact that has been verified.

        Args:
            folder: The artifact's folder.
            manifest: What the network is built from.
            task: The restored task, which builds the head.
            options: Device and threads.

        Raises:
            ArtifactError: Tensors are missing, unexpected or of the wrong shape.
        """

    @abstractmethod
    def outputs(self, batch: Batch) -> FloatArray:
        """Return the raw output of the head for a batch, float32 (B, ...)."""

    @abstractmethod
    def environment(self) -> dict[str, JSON]:
        """Return everything that may change the last bits of an output: library, version, threads, processor, device."""

    def use(self) -> Use:
        """Return what of the machine is used."""
        return Use(threads=int(self.environment().get("threads") or default_threads()), cores=available_cores())

    def passes(self, answered: Answered) -> Passes:
        """Return what was answered with the arithmetic it took, where a runtime can tell."""
        return Passes(answered, Flops(reason=f"the operations of {type(self).package} are not counted"), None)

    def weights_digest(self) -> str:
        """Return the digest of the tensors as they are in memory, or an empty string where a runtime cannot tell."""
        return ""
