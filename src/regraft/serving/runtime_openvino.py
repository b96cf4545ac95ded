"""OpenVINO on the CPU: answers without torch and transformers, from its own files or from ONNX."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from regraft.artifact.manifest import Manifest
from regraft.artifact.onnx_file import onnx_problems, read_onnx
from regraft.artifact.openvino_file import read_openvino
from regraft.errors import ArtifactError, Problem
from regraft.options import JSON
from regraft.registry import missing_extra
from regraft.serving.arguments import TRAINING_STACK, arguments, network_file
from regraft.serving.runtime import Runtime
from regraft.tasks.task import Task
from regraft.training.machine import instructions, processor
from regraft.training.options import MachineOptions
from regraft.training.threads import default_threads
from regraft.types import Batch, FloatArray

if TYPE_CHECKING:
    import openvino

_XML, _ONNX = "network/model.xml", "network/model.onnx"
_KEPT_SHAPES = 64
"""So many prepared steps are kept for shapes that come again; each new shape would otherwise stay in memory for good."""


class OpenvinoRuntime(Runtime):
    """Run a network on the CPU in float32.

    Args:
        model: As OpenVINO read it; any number of rows and positions.
        options: Threads.
    """

    package = "openvino"
    extra = "openvino"
    does_without = TRAINING_STACK

    def __init__(self, model: openvino.Model, options: MachineOptions) -> None:
        import openvino

        self.threads = options.threads or default_threads()
        compiled = openvino.Core().compile_model(model, "CPU", _settings(self.threads))
        self.inputs = tuple(port.get_any_name() for port in compiled.inputs)
        # One request holds the memory of one batch; more of them at once would only share the same cores.
        self._request = compiled.create_infer_request()
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: Path, manifest: Manifest, task: Task, options: MachineOptions) -> Self:
        """Open the network of an export: `network/model.xml`, else `network/model.onnx`."""
        try:
            import openvino
        except ModuleNotFoundError as error:
            raise missing_extra(error, "the runtime 'openvino'", cls.extra) from error
        path = network_file(folder, manifest, _XML, _ONNX)
        files = _READERS[path.suffix](path, folder, manifest)
        try:
            return cls(openvino.Core().read_model(*map(str, files)), options)
        except RuntimeError as error:
            fix = "use the version of openvino that wrote it or a newer one, or export it again"
            what = "OpenVINO cannot open the network"
            raise ArtifactError(Problem(what=what, where=str(path), got=str(error)[:500], fix=fix)) from error

    def outputs(self, batch: Batch) -> FloatArray:
        """Return the network's output for a batch, float32 (B, ...)."""
        given = arguments(batch, self.inputs)
        with self._lock:
            self._request.infer(given, share_inputs=True)
            # The memory of the output is used again for the next batch.
            return np.array(self._request.get_output_tensor(0).data, dtype=np.float32)

    def environment(self) -> dict[str, JSON]:
        """Return library, version, threads, instruction set and processor."""
        import openvino

        return {
            "library": f"openvino {openvino.__version__}",
            "threads": self.threads,
            "instructions": instructions(),
            "processor": processor(),
        }


def _settings(threads: int) -> dict[str, Any]:
    """Return the settings under which a network answers alike everywhere, within this process's threads."""
    return {
        # By itself it computes in bfloat16 where the processor can, which moves answers by 2e-3.
        "INFERENCE_PRECISION_HINT": "f32",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": threads,
        # Pinned threads of several processes would all sit on the same first cores.
        "ENABLE_CPU_PINNING": False,
        "CPU_RUNTIME_CACHE_CAPACITY": _KEPT_SHAPES,
    }


def _own_files(path: Path, folder: Path, manifest: Manifest) -> tuple[Path, ...]:
    weights = network_file(folder, manifest, path.with_suffix(".bin").relative_to(folder).as_posix())
    read_openvino(path, weights)
    return path, weights


def _onnx_file(path: Path, folder: Path, manifest: Manifest) -> tuple[Path, ...]:
    if problems := onnx_problems(read_onnx(path), folder, manifest.files):
        raise ArtifactError(problems)
    return (path,)


_READERS: Mapping[str, Callable[[Path, Path, Manifest], tuple[Path, ...]]] = {".xml": _own_files, ".onnx": _onnx_file}
"""What is looked at before OpenVINO opens a file, by the file's ending; gives the files to open."""
