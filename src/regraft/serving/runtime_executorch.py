"""A program of ExecuTorch, from Python: what a device would answer. Its package needs torch, but no transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from regraft.artifact.manifest import Manifest
from regraft.errors import ArtifactError, MachineError, Problem
from regraft.exporters.executorch_session import ExecutorchSession, version
from regraft.options import JSON
from regraft.registry import missing_extra
from regraft.serving.graph_file import GraphFile, graph_file
from regraft.serving.runtime import Runtime
from regraft.tasks.task import Task
from regraft.training.machine import instructions, processor
from regraft.training.options import MachineOptions
from regraft.training.threads import default_threads
from regraft.types import Batch, FloatArray


class ExecutorchRuntime(Runtime):
    """Run a program on the processor.

    Args:
        session: The opened program.
        graph: How it is fed.
    """

    package = "executorch"
    extra = "executorch"
    does_without = frozenset({"transformers", "datasets", "sklearn", "huggingface_hub"})

    def __init__(self, session: ExecutorchSession, graph: GraphFile) -> None:
        self.session = session
        self.graph = graph

    @classmethod
    def load(cls, folder: Path, manifest: Manifest, task: Task, options: MachineOptions) -> Self:
        """Open the program of an export.

        Raises:
            ArtifactError: The program is damaged or of another version, or the manifest does not say how much it takes.
            MissingExtraError: ExecuTorch is not installed.
        """
        graph = graph_file(folder, manifest)
        rows = manifest.network.facts.get("rows")
        if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
            what, fix = "the manifest does not say how many rows the program takes", "export the artifact again"
            raise ArtifactError(Problem(what=what, where=str(folder), got=repr(rows), expected="a number", fix=fix))
        try:
            session = ExecutorchSession(graph.path, graph.taken, rows, options.threads or default_threads())
        except ModuleNotFoundError as error:
            raise missing_extra(error, "the runtime 'executorch'", cls.extra) from error
        return cls(session, graph)

    def outputs(self, batch: Batch) -> FloatArray:
        """Return the head's output for a batch, float32 (B, ...).

        Raises:
            MachineError: ExecuTorch gave up.
        """
        try:
            return self.session.run(self.graph.feeds(batch))
        except RuntimeError as error:
            got = " ".join(str(error).split())[:300]
            shape = " x ".join(map(str, batch.mask_BT.shape))
            what, fix = f"ExecuTorch could not compute a batch of {shape} positions", "see what it said above"
            raise MachineError(Problem(what=what, where=str(self.graph.path), got=got, fix=fix)) from error

    def environment(self) -> dict[str, JSON]:
        """Return library and version, threads, instruction set and processor."""
        library, threads = f"executorch {version()}", self.session.threads
        return {"library": library, "threads": threads, "instructions": instructions(), "processor": processor()}
