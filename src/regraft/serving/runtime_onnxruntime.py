"""The network as an ONNX graph in ONNX Runtime: neither torch nor transformers are needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from regraft.artifact.manifest import Manifest
from regraft.errors import MachineError, Problem
from regraft.exporters.onnx_session import open_session
from regraft.options import JSON
from regraft.registry import missing_extra
from regraft.serving.graph_file import GraphFile, checked_onnx
from regraft.serving.runtime import Runtime
from regraft.tasks.task import Task
from regraft.training.machine import instructions, processor
from regraft.training.options import MachineOptions
from regraft.training.threads import default_threads
from regraft.types import Batch, FloatArray

if TYPE_CHECKING:
    import onnxruntime

_LARGE_POSITIONS = 16_384
_SHRINK = ("memory.enable_memory_arena_shrinkage", "cpu:0")


class OnnxruntimeRuntime(Runtime):
    """Run an ONNX graph on the processor.

    Args:
        session: The opened graph.
        graph: How it is fed.
        threads: Threads of a matrix product.
    """

    package = "onnxruntime"
    extra = "runtime"
    does_without = frozenset({"torch", "transformers", "datasets", "sklearn", "huggingface_hub"})
    positions: ClassVar[int | None] = 256

    def __init__(self, session: onnxruntime.InferenceSession, graph: GraphFile, threads: int) -> None:
        self.session = session
        self.graph = graph
        self.threads = threads

    @classmethod
    def load(cls, folder: Path, manifest: Manifest, task: Task, options: MachineOptions) -> Self:
        """Open the graph of an export, looked at before ONNX Runtime sees it.

        Raises:
            ArtifactError: The graph is unsafe, too new for the installed version, or cannot be opened.
            MissingExtraError: ONNX Runtime is not installed.
        """
        graph = checked_onnx(folder, manifest)
        threads = options.threads or default_threads()
        try:
            session = open_session(graph.path, threads, convolutional=graph.convolutional)
        except ModuleNotFoundError as error:
            raise missing_extra(error, "the runtime 'onnxruntime'", cls.extra) from error
        return cls(session, graph, threads)

    def outputs(self, batch: Batch) -> FloatArray:
        """Return the head's output for a batch, float32 (B, ...).

        Raises:
            MachineError: ONNX Runtime gave up (no memory).
        """
        import onnxruntime

        run = onnxruntime.RunOptions()
        if batch.mask_BT.size > _LARGE_POSITIONS:
            # What one very large batch needed is given back; ordinary ones find their memory again.
            run.add_run_config_entry(*_SHRINK)
        try:
            # Pictures come with the channels of a pixel side by side; laying them out here is faster than leaving it to it.
            feeds = {name: np.ascontiguousarray(values) for name, values in self.graph.feeds(batch).items()}
            values = self.session.run([self.graph.output], feeds, run)[0]
        except Exception as error:  # its errors have no class in common
            got = " ".join(str(error).split())[:300]
            shape = " x ".join(map(str, batch.mask_BT.shape))
            what, fix = f"ONNX Runtime could not compute a batch of {shape} positions", "try a smaller batch_size"
            raise MachineError(Problem(what=what, where=str(self.graph.path), got=got, fix=fix)) from error
        return np.ascontiguousarray(values, dtype=np.float32)

    def environment(self) -> dict[str, JSON]:
        """Return library and version, threads, instruction set and processor."""
        import onnxruntime

        library = f"onnxruntime {onnxruntime.__version__}"
        return {"library": library, "threads": self.threads, "instructions": instructions(), "processor": processor()}
