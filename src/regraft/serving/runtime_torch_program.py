"""A program of torch.export: needs torch to answer, but neither transformers nor the network's code."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Self

import numpy as np

from regraft.artifact.manifest import Manifest
from regraft.artifact.pt2_file import read_pt2
from regraft.errors import ArtifactError, Problem
from regraft.exporters.program_machine import Machine
from regraft.options import JSON
from regraft.registry import missing_extra
from regraft.serving.graph_file import GraphFile, graph_file
from regraft.serving.runtime import Runtime
from regraft.tasks.task import Task
from regraft.training.machine import processor
from regraft.training.options import MachineOptions
from regraft.training.threads import default_threads, with_threads
from regraft.types import Batch, FloatArray


class TorchProgramRuntime(Runtime):
    """Run a program on the CPU.

    Args:
        machine: Computes it.
        graph: How it is fed.
        threads: Threads of a matrix product.
    """

    package = "torch"
    extra = "train"
    does_without = frozenset({"transformers", "datasets", "sklearn", "huggingface_hub"})

    def __init__(self, machine: Machine, graph: GraphFile, threads: int) -> None:
        self.graph = graph
        self.threads = threads
        self._machine = machine
        # Threads are a setting of the process: two calls at once would change it under each other.
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: Path, manifest: Manifest, task: Task, options: MachineOptions) -> Self:
        """Open the program of an export; nothing that it says is run.

        Raises:
            ArtifactError: The program is unsafe, damaged, or of a version that is not known here.
            MissingExtraError: torch is not installed.
        """
        graph = graph_file(folder, manifest)
        program = read_pt2(graph.path)
        if {*program.inputs} != {*graph.taken}:
            what, fix = "the program has other inputs than the manifest says", "restore the artifact from its source"
            expected = ", ".join(graph.taken)
            got = ", ".join(program.inputs)
            raise ArtifactError(Problem(what=what, where=str(graph.path), got=got, expected=expected, fix=fix))
        try:
            machine = Machine(program)
        except ModuleNotFoundError as error:
            raise missing_extra(error, "the runtime 'torch-program'", cls.extra) from error
        return cls(machine, graph, options.threads or default_threads())

    def outputs(self, batch: Batch) -> FloatArray:
        """Return the program's output for a batch, float32 (B, ...)."""
        with self._lock, with_threads(self.threads):
            return np.ascontiguousarray(self._machine.run(self.graph.feeds(batch)), dtype=np.float32)

    def environment(self) -> dict[str, JSON]:
        """Return library, version, threads, instruction set and processor."""
        import torch

        library = f"torch {torch.__version__}, as a program"  # other kernels than of the network: other last bits
        capability = torch.backends.cpu.get_cpu_capability()
        return {"library": library, "threads": self.threads, "instructions": capability, "processor": processor()}
