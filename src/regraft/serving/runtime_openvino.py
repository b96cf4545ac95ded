"""The network in OpenVINO on the processor, from its own files or from ONNX: neither torch nor transformers are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Self

from regraft.artifact.manifest import Manifest
from regraft.errors import ArtifactError, MachineError, Problem
from regraft.exporters.openvino_session import OpenvinoSession, open_openvino, version
from regraft.options import JSON
from regraft.registry import missing_extra
from regraft.serving.graph_file import GraphFile, checked_onnx, graph_file
from regraft.serving.runtime import Runtime
from regraft.tasks.task import Task
from regraft.training.machine import instructions, processor
from regraft.training.options import MachineOptions
from regraft.training.threads import default_threads
from regraft.types import Batch, FloatArray

_FIX = "export the artifact again, or get it from its source"


class OpenvinoRuntime(Runtime):
    """Run a network in float32.

    Args:
        session: The opened network.
        graph: How it is fed.
        threads: Threads of a matrix product.
    """

    package = "openvino"
    extra = "openvino"
    does_without = frozenset({"torch", "transformers", "datasets", "sklearn", "huggingface_hub", "onnx", "onnxruntime"})
    positions: ClassVar[int | None] = 512

    def __init__(self, session: OpenvinoSession, graph: GraphFile, threads: int) -> None:
        self.session = session
        self.graph = graph
        self.threads = threads

    @classmethod
    def load(cls, folder: Path, manifest: Manifest, task: Task, options: MachineOptions) -> Self:
        """Open the network of an export, looked at before OpenVINO sees it.

        Raises:
            ArtifactError: The network is unsafe, damaged, or cannot be opened.
            MissingExtraError: OpenVINO is not installed.
        """
        graph = graph_file(folder, manifest)
        threads = options.threads or default_threads()
        files = _checked(graph, folder, manifest)
        try:
            session = open_openvino(files, threads)
        except ModuleNotFoundError as error:
            raise missing_extra(error, "the runtime 'openvino'", cls.extra) from error
        if {*session.inputs} != {*graph.taken}:
            what, expected = "the network has other inputs than the manifest says", ", ".join(graph.taken)
            problem = Problem(what=what, where=str(graph.path), got=", ".join(session.inputs), expected=expected, fix=_FIX)
            raise ArtifactError(problem)
        return cls(session, graph, threads)

    def outputs(self, batch: Batch) -> FloatArray:
        """Return the head's output for a batch, float32 (B, ...).

        Raises:
            MachineError: OpenVINO gave up (no memory).
        """
        try:
            return self.session.run(self.graph.feeds(batch))
        except RuntimeError as error:
            got = " ".join(str(error).split())[:300]
            shape = " x ".join(map(str, batch.mask_BT.shape))
            what, fix = f"OpenVINO could not compute a batch of {shape} positions", "try a smaller batch_size"
            raise MachineError(Problem(what=what, where=str(self.graph.path), got=got, fix=fix)) from error

    def environment(self) -> dict[str, JSON]:
        """Return library and version, threads, instruction set and processor."""
        library = f"openvino {version()}"
        return {"library": library, "threads": self.threads, "instructions": instructions(), "processor": processor()}


def _checked(graph: GraphFile, folder: Path, manifest: Manifest) -> tuple[Path, ...]:
    """Return the files of a network after looking at what a runtime must not be given."""
    kinds: Mapping[str, Callable[[GraphFile, Path, Manifest], tuple[Path, ...]]] = {".xml": _own_files, ".onnx": _onnx_file}
    if graph.path.suffix not in kinds:
        what, expected = "this runtime cannot read the network's file", " or ".join(kinds)
        raise ArtifactError(Problem(what=what, where=str(graph.path), got=graph.path.name, expected=expected, fix=_FIX))
    return kinds[graph.path.suffix](graph, folder, manifest)


def _own_files(graph: GraphFile, folder: Path, manifest: Manifest) -> tuple[Path, ...]:
    weights = graph.path.with_suffix(".bin")
    if weights.relative_to(folder).as_posix() not in manifest.files:
        what, expected = "the weights of the network are not one of the artifact's files", "a file that the manifest lists"
        raise ArtifactError(Problem(what=what, where=str(graph.path), got=f"'{weights.name}'", expected=expected, fix=_FIX))
    from regraft.artifact.openvino_file import read_openvino

    read_openvino(graph.path, weights)
    return graph.path, weights


def _onnx_file(graph: GraphFile, folder: Path, manifest: Manifest) -> tuple[Path, ...]:
    return (checked_onnx(folder, manifest).path,)
